// Which packets of an interface are the router's.
//
// One instance runs on each interface. A packet that is ours goes to the AF_XDP socket of the queue it arrived on. When
// that socket is missing, because the router is starting, has stopped or was killed, the packet is dropped: the kernel
// must not forward around the policy. The program stays on the interface when the router's process ends.
//
//   steer_all    workload and host interfaces: every packet is ours
//   steer_ours   uplinks: ours is what the prefixes name, and what may answer a workload whose source was translated; ARP, ND,
//                and what else the node itself receives pass to the kernel
//
// Both exist a second time in section xdp.frags, for interfaces whose packets do not fit one buffer.
//
// An address of the node that stands for workloads outside is shared with the host. What may be an answer to a workload comes
// to the router: the ports and identifiers that sources are given, errors, and fragments, which have no ports. The router gives
// to the host what is no such answer.
//
// Left out: anything that is decided per packet. Policy is the worker's; this file only says whose packet it is.

#include "steer.bpf.h"

#include <linux/icmpv6.h>
#include <linux/in.h>

#define SHARED 512
#define FRAGMENT 0x3fff
// <linux/icmp.h> needs headers of a C library.
#define ICMP_ECHOREPLY 0
#define ICMP_DEST_UNREACH 3
#define ICMP_TIME_EXCEEDED 11
#define ICMP_PARAMETERPROB 12

// First and last port or identifier, in the order of the machine.
struct ports {
	__u16 first;
	__u16 last;
};

// Addresses that the host shares with workloads. IPv4 mapped.
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, SHARED);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, struct in6_addr);
	__type(value, struct ports);
} shared SEC(".maps");

static __always_inline int is_given(struct ports *ports, __be16 number)
{
	__u16 port = bpf_ntohs(number);

	return ports->first <= port && port <= ports->last;
}

// Whether a packet to a shared address may be an answer to a workload. `transport` is where its header should be.
static __always_inline int may_answer(struct ports *ports, __u8 protocol, void *transport, void *end)
{
	__be16 *numbers = transport;
	__u8 *type = transport;

	// Both ports; of ICMP type and code, checksum, identifier.
	if ((void *)(numbers + 3) > end)
		return 0;
	switch (protocol) {
	case IPPROTO_TCP:
	case IPPROTO_UDP:
	case IPPROTO_UDPLITE:
		return is_given(ports, numbers[1]);
	case IPPROTO_ICMP:
		if (*type == ICMP_ECHOREPLY)
			return is_given(ports, numbers[2]);
		return *type == ICMP_DEST_UNREACH || *type == ICMP_TIME_EXCEEDED || *type == ICMP_PARAMETERPROB;
	case IPPROTO_ICMPV6:
		if (*type == ICMPV6_ECHO_REPLY)
			return is_given(ports, numbers[2]);
		return *type >= ICMPV6_DEST_UNREACH && *type <= ICMPV6_PARAMPROB;
	}
	return 0;
}

static __always_inline int steer_ipv4(struct xdp_md *ctx, struct iphdr *ip, void *end)
{
	struct in6_addr address = { .in6_u.u6_addr32 = { 0, 0, bpf_htonl(0xffff), 0 } };
	struct ports *ports;

	if ((void *)(ip + 1) > end || ip->version != 4)
		return count(DROPPED_MALFORMED, XDP_DROP);
	if (is_ours_ipv4(ip->daddr))
		return redirect(ctx);
	address.in6_u.u6_addr32[3] = ip->daddr;
	ports = bpf_map_lookup_elem(&shared, &address);
	if (!ports)
		return count(PASSED, XDP_PASS);
	if ((ip->frag_off & bpf_htons(FRAGMENT)) ||
	    may_answer(ports, ip->protocol, (void *)ip + ip->ihl * 4, end))
		return redirect(ctx);
	return count(PASSED, XDP_PASS);
}

static __always_inline int steer_ipv6(struct xdp_md *ctx, struct ipv6hdr *ip, void *end)
{
	struct in6_addr address;
	struct ports *ports;

	if ((void *)(ip + 1) > end || ip->version != 6)
		return count(DROPPED_MALFORMED, XDP_DROP);
	if (is_ours_ipv6(&ip->daddr))
		return redirect(ctx);
	address = ip->daddr;
	ports = bpf_map_lookup_elem(&shared, &address);
	if (!ports)
		return count(PASSED, XDP_PASS);
	switch (ip->nexthdr) {
	// Whoever sends extension headers is looked at more closely.
	case IPPROTO_HOPOPTS:
	case IPPROTO_ROUTING:
	case IPPROTO_FRAGMENT:
	case IPPROTO_DSTOPTS:
		return redirect(ctx);
	}
	return may_answer(ports, ip->nexthdr, ip + 1, end) ? redirect(ctx) : count(PASSED, XDP_PASS);
}

static __always_inline int steer_by_destination(struct xdp_md *ctx)
{
	void *end = (void *)(long)ctx->data_end;
	struct network network;

	if (!find_network(ctx, &network))
		return count(DROPPED_MALFORMED, XDP_DROP);
	if (network.protocol == bpf_htons(ETH_P_IP))
		return steer_ipv4(ctx, network.at, end);
	if (network.protocol == bpf_htons(ETH_P_IPV6))
		return steer_ipv6(ctx, network.at, end);
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
