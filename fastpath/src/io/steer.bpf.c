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

#include "steer.bpf.h"

static __always_inline int steer_ipv4(struct xdp_md *ctx, struct iphdr *ip, void *end)
{
	if ((void *)(ip + 1) > end || ip->version != 4)
		return count(DROPPED_MALFORMED, XDP_DROP);
	if (is_ours_ipv4(ip->daddr))
		return redirect(ctx);
	return count(PASSED, XDP_PASS);
}

static __always_inline int steer_ipv6(struct xdp_md *ctx, struct ipv6hdr *ip, void *end)
{
	if ((void *)(ip + 1) > end || ip->version != 6)
		return count(DROPPED_MALFORMED, XDP_DROP);
	if (is_ours_ipv6(&ip->daddr))
		return redirect(ctx);
	return count(PASSED, XDP_PASS);
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
