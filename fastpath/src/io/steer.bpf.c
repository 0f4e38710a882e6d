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
// An entry of the prefix maps says which protocols it takes: a pod's address takes all, the node's own address only
// the tunnels that end here.
//
// Left out: anything that is decided per packet. Policy is the worker's; this file only says whose packet it is.

#include <linux/bpf.h>
#include <linux/if_ether.h>
#include <linux/in.h>
#include <linux/ip.h>
#include <linux/ipv6.h>
#include <bpf/bpf_endian.h>
#include <bpf/bpf_helpers.h>

#define QUEUES 256
#define PREFIXES 65536
#define VLAN_TAGS 2
#define IPV4_FRAGMENT 0x1fff

// Values of the prefix maps. The upper half is the UDP port of STEER_VXLAN.
#define STEER_EVERYTHING 1
#define STEER_IPIP 2
#define STEER_GRE 4
#define STEER_VXLAN 8

enum counter { REDIRECTED, PASSED, DROPPED_NO_SOCKET, DROPPED_MALFORMED, COUNTERS };

struct vlan_tag {
	__be16 tci;
	__be16 next_protocol;
};

struct udp_ports {
	__be16 source;
	__be16 dest;
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

// True when an entry takes a packet of this protocol. Ports are looked at only if the caller says that they are there.
static __always_inline int takes(__u32 steer, __u8 protocol, struct udp_ports *ports, int has_ports, void *end)
{
	if (steer & STEER_EVERYTHING)
		return 1;
	switch (protocol) {
	case IPPROTO_IPIP:
	case IPPROTO_IPV6:
		return (steer & STEER_IPIP) != 0;
	case IPPROTO_GRE:
		return (steer & STEER_GRE) != 0;
	case IPPROTO_UDP:
		if (!(steer & STEER_VXLAN) || !has_ports || (void *)(ports + 1) > end)
			return 0;
		return bpf_ntohs(ports->dest) == steer >> 16;
	default:
		return 0;
	}
}

static __always_inline int steer_ipv4(struct xdp_md *ctx, struct iphdr *ip, void *end)
{
	struct ipv4_key key = { .prefix_len = 32 };
	int has_ports;
	__u32 *steer;

	if ((void *)(ip + 1) > end || ip->version != 4)
		return count(DROPPED_MALFORMED, XDP_DROP);
	key.address = ip->daddr;
	steer = bpf_map_lookup_elem(&ipv4_prefixes, &key);
	if (!steer)
		return count(PASSED, XDP_PASS);
	// Tunnels are sent without IP options; with some, the ports are elsewhere. Late fragments have none.
	has_ports = ip->ihl == 5 && !(ip->frag_off & bpf_htons(IPV4_FRAGMENT));
	if (takes(*steer, ip->protocol, (void *)(ip + 1), has_ports, end))
		return redirect(ctx);
	return count(PASSED, XDP_PASS);
}

static __always_inline int steer_ipv6(struct xdp_md *ctx, struct ipv6hdr *ip, void *end)
{
	struct ipv6_key key = { .prefix_len = 128 };
	__u32 *steer;

	if ((void *)(ip + 1) > end || ip->version != 6)
		return count(DROPPED_MALFORMED, XDP_DROP);
	key.address = ip->daddr;
	steer = bpf_map_lookup_elem(&ipv6_prefixes, &key);
	if (steer && takes(*steer, ip->nexthdr, (void *)(ip + 1), 1, end))
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
