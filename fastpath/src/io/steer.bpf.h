// What all our XDP programs share: the map of sockets, the prefixes that are ours, counters, and the layer 2 header.
//
// Left out: any program. steer.bpf.c and guard.bpf.c have them, each in an object with maps of its own.

#pragma once

#include <linux/bpf.h>
#include <linux/if_ether.h>
#include <linux/ip.h>
#include <linux/ipv6.h>
#include <bpf/bpf_endian.h>
#include <bpf/bpf_helpers.h>

#define QUEUES 256
#define PREFIXES 65536
#define VLAN_TAGS 2
#define VLAN_ID 0x0fff

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

// What follows the layer 2 header.
struct network {
	void *at;
	__be16 protocol;
	// A tag that names a VLAN; a priority tag does not.
	int is_tagged;
};

// False: the packet ends before its layer 2 header does.
static __always_inline int find_network(struct xdp_md *ctx, struct network *network)
{
	void *end = (void *)(long)ctx->data_end;
	struct ethhdr *ethernet = (void *)(long)ctx->data;
	void *next = ethernet + 1;

	network->is_tagged = 0;
	if (next > end)
		return 0;
	network->protocol = ethernet->h_proto;

#pragma unroll
	for (int tag = 0; tag < VLAN_TAGS; tag++) {
		struct vlan_tag *vlan = next;

		if (network->protocol != bpf_htons(ETH_P_8021Q) && network->protocol != bpf_htons(ETH_P_8021AD))
			break;
		next = vlan + 1;
		if (next > end)
			return 0;
		if (vlan->tci & bpf_htons(VLAN_ID))
			network->is_tagged = 1;
		network->protocol = vlan->next_protocol;
	}
	network->at = next;
	return 1;
}

static __always_inline int is_ours_ipv4(__be32 address)
{
	struct ipv4_key key = { .prefix_len = 32, .address = address };

	return bpf_map_lookup_elem(&ipv4_prefixes, &key) != 0;
}

static __always_inline int is_ours_ipv6(struct in6_addr *address)
{
	struct ipv6_key key = { .prefix_len = 128, .address = *address };

	return bpf_map_lookup_elem(&ipv6_prefixes, &key) != 0;
}
