// Which packets of an interface are the router's.
//
// One instance runs on each interface. A packet that is ours goes to the AF_XDP socket of the queue it arrived on. When
// that socket is missing, because the router is starting, has stopped or was killed, the packet is dropped: the kernel
// must not forward around the policy. The program stays on the interface when the router's process ends.
//
//   steer_all    workload and host interfaces: every packet is ours
//   steer_ours   uplinks: ours is what the prefixes name; ARP, ND, and what the node itself receives pass to the kernel
//
// Both exist a second time in section xdp.frags, for interfaces whose packets do not fit one buffer.
//
// Left out: anything that is decided per packet. Policy is the worker's; this file only says whose packet it is.

#include <linux/bpf.h>
#include <linux/if_ether.h>
#include <linux/ip.h>
#include <linux/ipv6.h>
#include <bpf/bpf_endian.h>
#include <bpf/bpf_helpers.h>

#define QUEUES 256
#define PREFIXES 65536
#define VLAN_TAGS 2

enum counter { REDIRECTED, PASSED, DROPPED_NO_SOCKET, DROPPED_MALFORMED, COUNTERS };

struct vlan_tag {
	__be16 tci;
	__be16 next_protocol;
};

struct ipv4_key {
	__u32 prefix_len;
	__u32 address;
};

struct ipv6_key {
	__u32 prefix_len;
	struct in6_addr address;
};

struct {
	__uint(type, BPF_MAP_TYPE_XSKMAP);
	__uint(max_entries, QUEUES);
	__type(key, __u32);
	__type(value, __u32);
} sockets SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_LPM_TRIE);
	__uint(max_entries, PREFIXES);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, struct ipv4_key);
	__type(value, __u32);
} ipv4_prefixes SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_LPM_TRIE);
	__uint(max_entries, PREFIXES);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, struct ipv6_key);
	__type(value, __u32);
} ipv6_prefixes SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, COUNTERS);
	__type(key, __u32);
	__type(value, __u64);
} counters SEC(".maps");

static __always_inline int count(enum counter which, int action)
{
	__u32 key = which;
	__u64 *value = bpf_map_lookup_elem(&counters, &key);

	if (value)
		*value += 1;
	return action;
}

static __always_inline int redirect(struct xdp_md *ctx)
{
	// The third argument is what to do without a socket; the helper answers it in that case only.
	int action = bpf_redirect_map(&sockets, ctx->rx_queue_index, XDP_DROP);

	return count(action == XDP_REDIRECT ? REDIRECTED : DROPPED_NO_SOCKET, action);
}

static __always_inline int steer_ipv4(struct xdp_md *ctx, struct iphdr *ip, void *end)
{
	struct ipv4_key key = { .prefix_len = 32 };

	if ((void *)(ip + 1) > end || ip->version != 4)
		return count(DROPPED_MALFORMED, XDP_DROP);
	key.address = ip->daddr;
	if (bpf_map_lookup_elem(&ipv4_prefixes, &key))
		return redirect(ctx);
	return count(PASSED, XDP_PASS);
}

static __always_inline int steer_ipv6(struct xdp_md *ctx, struct ipv6hdr *ip, void *end)
{
	struct ipv6_key key = { .prefix_len = 128 };

	if ((void *)(ip + 1) > end || ip->version != 6)
		return count(DROPPED_MALFORMED, XDP_DROP);
	key.address = ip->daddr;
	if (bpf_map_lookup_elem(&ipv6_prefixes, &key))
		return redirect(ctx);
	return count(PASSED, XDP_PASS);
}

static __always_inline int steer_by_destination(struct xdp_md *ctx)
{
	void *end = (void *)(long)ctx->data_end;
	struct ethhdr *ethernet = (void *)(long)ctx->data;
	void *next = ethernet + 1;
	__be16 protocol;

	if (next > end)
		return count(DROPPED_MALFORMED, XDP_DROP);
	protocol = ethernet->h_proto;

#pragma unroll
	for (int tag = 0; tag < VLAN_TAGS; tag++) {
		struct vlan_tag *vlan = next;

		if (protocol != bpf_htons(ETH_P_8021Q) && protocol != bpf_htons(ETH_P_8021AD))
			break;
		next = vlan + 1;
		if (next > end)
			return count(DROPPED_MALFORMED, XDP_DROP);
		protocol = vlan->next_protocol;
	}

	if (protocol == bpf_htons(ETH_P_IP))
		return steer_ipv4(ctx, next, end);
	if (protocol == bpf_htons(ETH_P_IPV6))
		return steer_ipv6(ctx, next, end);
	return count(PASSED, XDP_PASS);
}

SEC("xdp")
int steer_all(struct xdp_md *ctx)
{
	return redirect(ctx);
}

SEC("xdp.frags")
int steer_all_frags(struct xdp_md *ctx)
{
	return redirect(ctx);
}

SEC("xdp")
int steer_ours(struct xdp_md *ctx)
{
	return steer_by_destination(ctx);
}

SEC("xdp.frags")
int steer_ours_frags(struct xdp_md *ctx)
{
	return steer_by_destination(ctx);
}

char LICENSE[] SEC("license") = "Dual MIT/GPL";
