// Packets for measurements, made by the kernel itself: each run of this program is one packet.
//
// The program is never attached. BPF_PROG_TEST_RUN with live frames runs it on pages of the kernel's own, and what it
// redirects leaves by the interface as if a driver had received it: no socket buffer is allocated and nothing is copied,
// so that one core offers several times what a forwarder can take.
//
// A page comes back as the last receiver left it, so every run writes the whole header again: Ethernet, IP and UDP from a
// template, then the flow's source address and port, the stamp (stamp.bpf.h), and both checksums from sums that the
// template brings along.
//
// Load is kept by refusing: a run that comes before the next packet is due ends its page unsent. Who falls behind may
// catch up by `burst` packets and no more; the rest was never sent, and whoever measures counts it as lost.
//
// Left out: anything but UDP without options. See blast.rs for how it is told what to send.

#include "stamp.bpf.h"

#define TEMPLATES 16
#define TEMPLATE_WORDS 8
#define PORTS 1024
// Times are kept in parts of a nanosecond: packets per second do not divide a second.
#define TIME_SHIFT 8
#define IPV4_HEADERS 42
#define IPV6_HEADERS 62

struct template {
	// The headers, as far as they are the same in every packet.
	__u64 bytes[TEMPLATE_WORDS];
	__u32 length;
	__u32 is_ipv6;
	// Of flow 0: the last 32 bits of the source address, and the source port.
	__u32 source;
	__u32 port;
	// Sums of what is the same in every packet, under the IPv4 header's checksum and under UDP's.
	__u32 ip_sum;
	__u32 udp_sum;
};

struct plan {
	__u64 interface;
	__u64 templates;
	__u64 flows;
	// Between two packets; 0: as fast as it goes.
	__u64 interval;
	// How far behind its time a packet may still be sent.
	__u64 patience;
	// Packets in all; 0: until somebody stops it.
	__u64 limit;
	__u64 is_stopped;
	__u64 unused;
};

struct progress {
	__u64 sequence;
	__u64 sent;
	__u64 flow;
	__u64 template;
	__u64 due;
	// Packets that came too late to be sent.
	__u64 missed;
	__u64 unused[2];
};

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, TEMPLATES);
	__type(key, __u32);
	__type(value, struct template);
} templates SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct plan);
} plan SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct progress);
} progress SEC(".maps");

static __always_inline __u16 fold(__u32 sum)
{
	sum = (sum & 0xffff) + (sum >> 16);
	sum = (sum & 0xffff) + (sum >> 16);
	return sum;
}

static __always_inline __u32 halves(__u32 value)
{
	return (value >> 16) + (value & 0xffff);
}

// Source port, stamp and checksum; `sum` is what else is under the checksum. RFC 768: a sum of 0 is sent as all ones.
static __always_inline void finish_udp(void *udp, __u16 port, __u64 sequence, __u64 now, __u32 sum)
{
	__u16 *half = udp;
	__u16 checksum;

	sum += port + (__u16)(sequence >> 32) + halves(sequence) + halves(now >> 32) + halves(now);
	checksum = ~fold(sum);
	half[0] = bpf_htons(port);
	half[3] = bpf_htons(checksum ? checksum : 0xffff);
	put32(udp + 8, MAGIC);
	half[6] = bpf_htons(sequence >> 32);
	put32(udp + 14, sequence);
	put32(udp + 18, now >> 32);
	put32(udp + 22, now);
}

SEC("xdp")
int blast(struct xdp_md *ctx)
{
	__u32 zero = 0;
	struct plan *plan_ = bpf_map_lookup_elem(&plan, &zero);
	struct progress *state = bpf_map_lookup_elem(&progress, &zero);
	struct template *template;
	__u64 now, *bytes;
	__u32 number, source;
	void *data, *end;
	__u16 port;
	int excess;

	if (!plan_ || !state || plan_->is_stopped || (plan_->limit && state->sent >= plan_->limit))
		return XDP_DROP;
	now = bpf_ktime_get_ns();
	if (plan_->interval) {
		__u64 time = now << TIME_SHIFT;

		if (!state->due)
			state->due = time;
		if (time < state->due)
			return XDP_DROP;
		if (time - state->due > plan_->patience) {
			__u64 late = (time - state->due - plan_->patience) / plan_->interval + 1;

			state->missed += late;
			state->due += late * plan_->interval;
		}
		state->due += plan_->interval;
	}

	number = state->template;
	template = bpf_map_lookup_elem(&templates, &number);
	if (!template)
		return XDP_DROP;
	excess = (int)template->length - (int)(ctx->data_end - ctx->data);
	if (excess && bpf_xdp_adjust_tail(ctx, excess))
		return XDP_DROP;
	data = (void *)(long)ctx->data;
	end = (void *)(long)ctx->data_end;
	source = template->source + (state->flow >> 10);
	port = template->port + (state->flow & (PORTS - 1));
	bytes = data;
	if (template->is_ipv6) {
		if (data + IPV6_HEADERS + STAMP_LEN > end)
			return XDP_DROP;
#pragma unroll
		for (int word = 0; word < 7; word++)
			bytes[word] = template->bytes[word];
		*(__u32 *)(data + 56) = (__u32)template->bytes[7];
		*(__u16 *)(data + 60) = (__u16)(template->bytes[7] >> 32);
		put32(data + 34, source);
		finish_udp(data + 54, port, state->sequence, now, template->udp_sum + halves(source));
	} else {
		if (data + IPV4_HEADERS + STAMP_LEN > end)
			return XDP_DROP;
#pragma unroll
		for (int word = 0; word < 5; word++)
			bytes[word] = template->bytes[word];
		*(__u16 *)(data + 40) = (__u16)template->bytes[5];
		put32(data + 26, source);
		*(__u16 *)(data + 24) = bpf_htons((__u16)~fold(template->ip_sum + halves(source)));
		finish_udp(data + 34, port, state->sequence, now, template->udp_sum + halves(source));
	}
	state->sequence++;
	state->sent++;
	state->flow = state->flow + 1 < plan_->flows ? state->flow + 1 : 0;
	state->template = number + 1 < plan_->templates ? number + 1 : 0;
	return bpf_redirect(plan_->interface, 0);
}

char LICENSE[] SEC("license") = "Dual MIT/GPL";
