// What a packet of a measurement carries behind its UDP header, and where; blast.bpf.c writes it, gauge.bpf.c and sink.bpf.c read it.
//
//   0      4              10                 18
//   | magic | sequence, 48 | sent at, ns, 64 |      all in network order; 18 bytes fit the shortest frame of IPv4
//
// The time is CLOCK_MONOTONIC, which is the same in every network namespace of a machine.

#pragma once

#include <linux/bpf.h>
#include <linux/if_ether.h>
#include <linux/ip.h>
#include <linux/ipv6.h>
#include <bpf/bpf_endian.h>
#include <bpf/bpf_helpers.h>

#define MAGIC 0x56524231
#define STAMP_LEN 18
#define IPV4_STAMP_AT 42
#define IPV6_STAMP_AT 62

// Fields lie at even positions that are no multiples of their size: read and written by halves.
static __always_inline __u32 get32(const void *at)
{
	const __u16 *half = at;

	return (__u32)bpf_ntohs(half[0]) << 16 | bpf_ntohs(half[1]);
}

static __always_inline void put32(void *at, __u32 value)
{
	__u16 *half = at;

	half[0] = bpf_htons(value >> 16);
	half[1] = bpf_htons(value);
}

// Where the stamp of a packet is; 0 when it has none.
static __always_inline void *stamp_between(void *data, void *end)
{
	struct ethhdr *ethernet = data;
	void *stamp;

	if ((void *)(ethernet + 1) > end)
		return 0;
	if (ethernet->h_proto == bpf_htons(ETH_P_IP))
		stamp = data + IPV4_STAMP_AT;
	else if (ethernet->h_proto == bpf_htons(ETH_P_IPV6))
		stamp = data + IPV6_STAMP_AT;
	else
		return 0;
	if (stamp + STAMP_LEN > end || get32(stamp) != MAGIC)
		return 0;
	return stamp;
}
