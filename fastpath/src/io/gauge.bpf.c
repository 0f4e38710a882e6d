// Where packets of a measurement end: counted, and looked at for what their stamps (stamp.bpf.h) tell.
//
//   gauge_count   packets and bytes
//   gauge_whole   the same, and latency as a histogram, packets that came twice, packets that came out of order
//
// Both drop what they have counted. Packets without our magic are counted apart.
//
// They are classifiers (tc) and not XDP: on a veth XDP would have every socket buffer of another sender's making copied
// first, and on the forwarder's core, which costs those that send such buffers more than those that do not.
//
// The histogram is log-linear: 32 buckets for each power of two, so that a value is known to 3 %. A packet came twice when
// its sequence number is still at its place among the last 65,536. It is out of order when a later one came before it
// (RFC 4737 §3).

#include <linux/pkt_cls.h>

#include "stamp.bpf.h"

#define SUB_BITS 5
#define BUCKETS 1152
#define SEEN 65536

enum total { PACKETS, BYTES, FOREIGN, TWICE, REORDERED, MARKED, TOTALS };

// The last byte of a destination MAC that no packet should have: a measurement of changes under load gives it to next hops
// that belong to no whole snapshot.
#define MARK 0xff

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, TOTALS);
	__type(key, __u32);
	__type(value, __u64);
} totals SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, BUCKETS);
	__type(key, __u32);
	__type(value, __u64);
} latencies SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, SEEN);
	__type(key, __u32);
	__type(value, __u64);
} seen SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, __u64);
} highest SEC(".maps");

static __always_inline void add(enum total which, __u64 count)
{
	__u32 key = which;
	__u64 *value = bpf_map_lookup_elem(&totals, &key);

	if (value)
		*value += count;
}

static __always_inline void *find_stamp(struct __sk_buff *ctx)
{
	return stamp_between((void *)(long)ctx->data, (void *)(long)ctx->data_end);
}

static __always_inline __u32 log2_of(__u64 value)
{
	__u32 power = 0;

	if (value >> 32) { value >>= 32; power += 32; }
	if (value >> 16) { value >>= 16; power += 16; }
	if (value >> 8) { value >>= 8; power += 8; }
	if (value >> 4) { value >>= 4; power += 4; }
	if (value >> 2) { value >>= 2; power += 2; }
	if (value >> 1) { power += 1; }
	return power;
}

static __always_inline __u32 bucket_of(__u64 value)
{
	__u32 power, bucket;

	if (value < (1 << SUB_BITS))
		return value;
	power = log2_of(value) - SUB_BITS;
	bucket = ((power + 1) << SUB_BITS) + ((value >> power) & ((1 << SUB_BITS) - 1));
	return bucket < BUCKETS ? bucket : BUCKETS - 1;
}

static __always_inline int count(struct __sk_buff *ctx, void *stamp)
{
	struct ethhdr *ethernet = (void *)(long)ctx->data;

	if (!stamp) {
		add(FOREIGN, 1);
	} else {
		if ((void *)(ethernet + 1) <= (void *)(long)ctx->data_end && ethernet->h_dest[5] == MARK)
			add(MARKED, 1);
		add(PACKETS, 1);
		add(BYTES, ctx->len);
	}
	return TC_ACT_SHOT;
}

SEC("classifier")
int gauge_count(struct __sk_buff *ctx)
{
	return count(ctx, find_stamp(ctx));
}

SEC("classifier")
int gauge_whole(struct __sk_buff *ctx)
{
	void *stamp = find_stamp(ctx);
	__u64 sequence, sent, now, *value;
	__u32 key, zero = 0;

	if (!stamp)
		return count(ctx, stamp);
	sequence = (__u64)bpf_ntohs(*(__u16 *)(stamp + 4)) << 32 | get32(stamp + 6);
	sent = (__u64)get32(stamp + 10) << 32 | get32(stamp + 14);
	now = bpf_ktime_get_ns();

	key = bucket_of(now > sent ? now - sent : 0);
	value = bpf_map_lookup_elem(&latencies, &key);
	if (value)
		*value += 1;

	// 0 is an empty place, so that numbers are kept one too high.
	key = sequence & (SEEN - 1);
	value = bpf_map_lookup_elem(&seen, &key);
	if (value) {
		if (*value == sequence + 1) {
			add(TWICE, 1);
			return TC_ACT_SHOT;
		}
		*value = sequence + 1;
	}
	value = bpf_map_lookup_elem(&highest, &zero);
	if (value) {
		if (sequence + 1 < *value)
			add(REORDERED, 1);
		else
			*value = sequence + 1;
	}
	return count(ctx, stamp);
}

char LICENSE[] SEC("license") = "Dual MIT/GPL";
