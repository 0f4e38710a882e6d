// Where packets of a measurement leave the kernel: for an AF_XDP socket, with the time of their arrival in front.
//
//   | arrived at, ns, 64, this machine's order | Ethernet ... as it came |
//
// The time is taken here and not by whoever reads the socket, because that one shares its core with the tester and comes
// when it can. Counted before they are handed over, so that packets which the socket has lost can be told from those that
// never came. What has no stamp (stamp.bpf.h) is counted and dropped.

#include "stamp.bpf.h"

#define QUEUES 64

enum total { PACKETS, BYTES, FOREIGN, TOTALS };

struct {
	__uint(type, BPF_MAP_TYPE_XSKMAP);
	__uint(max_entries, QUEUES);
	__type(key, __u32);
	__type(value, __u32);
} sockets SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, TOTALS);
	__type(key, __u32);
	__type(value, __u64);
} totals SEC(".maps");

static __always_inline void add(enum total which, __u64 count)
{
	__u32 key = which;
	__u64 *value = bpf_map_lookup_elem(&totals, &key);

	if (value)
		*value += count;
}

SEC("xdp")
int sink(struct xdp_md *ctx)
{
	void *data = (void *)(long)ctx->data, *end = (void *)(long)ctx->data_end;
	__u64 *front;

	if (!stamp_between(data, end)) {
		add(FOREIGN, 1);
		return XDP_DROP;
	}
	add(PACKETS, 1);
	add(BYTES, end - data);
	if (bpf_xdp_adjust_head(ctx, -(int)sizeof(*front)))
		return XDP_DROP;
	front = (void *)(long)ctx->data;
	if ((void *)(front + 1) > (void *)(long)ctx->data_end)
		return XDP_DROP;
	*front = bpf_ktime_get_ns();
	return bpf_redirect_map(&sockets, ctx->rx_queue_index, XDP_DROP);
}

char LICENSE[] SEC("license") = "Dual MIT/GPL";
