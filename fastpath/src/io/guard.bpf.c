// Guards the host on an uplink that has a host endpoint: the router judges what is for the host, and what it sends.
//
//   wire ─▶ steer_guarded (XDP) ──all but the below──▶ router ─▶ private pair ─▶ steer_host_in ─▶ the host's stack, as if
//                │                                                                              it came by the uplink
//                └─▶ the host's stack: ARP, ND, other protocols, VLANs, failsafe ports
//   the host's stack ─▶ steer_host_out (tc egress) ──all but the same──▶ private pair ─▶ router ─▶ wire
//
// Frames pass the private pair whole. Their source address says which uplink they came by or leave by: 02:76:72 and the
// kernel's number of the uplink. So no map has to be right for them to find their way, also after a restart.
//
// Failsafe ports are open without the router. Their answers are recognised by the connection, which is noted when its
// first packet passes, and not by their port: everybody can send from port 53.
//
// When the router has died its sockets are gone: what is not failsafe is dropped, in both directions.
//
// Where XDP runs on finished packets (generic mode) that would not end, and the host's stack takes in on the private pair
// what the router lets through. What is bound to the uplink then does not see it: groups, and link-local addresses.
//
// Left out: fragments, which have no ports of their own. The router puts them to their first, failsafe or not.

#include "steer.bpf.h"

#include <linux/icmpv6.h>
#include <linux/if_packet.h>
#include <linux/in.h>
#include <linux/pkt_cls.h>

#define OWN_ADDRESSES 4096
#define FAILSAFES 1024
#define CONNECTIONS 16384
#define LINKS 4096
#define FRAGMENT 0x3fff
#define ND_FIRST 133
#define ND_LAST 137
#define ND_HOP_LIMIT 255
#define DHCP_CLIENT 68
#define SECOND 1000000000ull
#define TCP_IDLE (3 * 3600 * SECOND)
#define UDP_IDLE (60 * SECOND)

enum direction { INBOUND, OUTBOUND };

// A port of the host (inbound) or of others (outbound), and who may be at the other side.
struct failsafe_key {
	__u32 prefix_len;
	__u8 direction;
	__u8 protocol;
	__be16 port;
	struct in6_addr remote;
};

// A connection on a failsafe port. IPv4 addresses are mapped.
struct connection {
	struct in6_addr local;
	struct in6_addr remote;
	__be16 local_port;
	__be16 remote_port;
	__u8 protocol;
	// Who began it.
	__u8 direction;
	__u8 zero[2];
};

struct {
	__uint(type, BPF_MAP_TYPE_LPM_TRIE);
	__uint(max_entries, FAILSAFES);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, struct failsafe_key);
	__type(value, __u32);
} failsafes SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, OWN_ADDRESSES);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, struct in6_addr);
	__type(value, __u32);
} own_addresses SEC(".maps");

// When each was last seen, in nanoseconds.
struct {
	__uint(type, BPF_MAP_TYPE_LRU_HASH);
	__uint(max_entries, CONNECTIONS);
	__type(key, struct connection);
	__type(value, __u64);
} connections SEC(".maps");

// The kernel's number of its end of the private pair.
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, __u32);
} private_pair SEC(".maps");

// Uplinks whose XDP program runs on finished packets, not in the driver: it would see what is put back there once more.
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, LINKS);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, __u32);
	__type(value, __u32);
} generic_links SEC(".maps");

static __always_inline void map_ipv4(struct in6_addr *to, __be32 address)
{
	to->in6_u.u6_addr32[0] = 0;
	to->in6_u.u6_addr32[1] = 0;
	to->in6_u.u6_addr32[2] = bpf_htonl(0xffff);
	to->in6_u.u6_addr32[3] = address;
}

static __always_inline int is_failsafe(struct connection *connection, __u8 direction)
{
	struct failsafe_key key = {
		.prefix_len = 8 * (sizeof(key) - sizeof(key.prefix_len)),
		.direction = direction,
		.protocol = connection->protocol,
		.port = direction == INBOUND ? connection->local_port : connection->remote_port,
		.remote = connection->remote,
	};

	if (!bpf_map_lookup_elem(&failsafes, &key))
		return 0;
	// What the kernel only forwards has no failsafe ports. A DHCP client has no address yet.
	if (connection->protocol == IPPROTO_UDP && connection->local_port == bpf_htons(DHCP_CLIENT))
		return 1;
	return bpf_map_lookup_elem(&own_addresses, &connection->local) != 0;
}

// Whether the packet passes without the router: it goes to a failsafe port, or answers a connection to one.
static __always_inline int passes(struct connection *connection, __u8 direction)
{
	__u64 idle = connection->protocol == IPPROTO_TCP ? TCP_IDLE : UDP_IDLE;
	__u64 now = bpf_ktime_get_ns();
	__u64 *seen;

	connection->direction = direction;
	if (is_failsafe(connection, direction)) {
		seen = bpf_map_lookup_elem(&connections, connection);
		if (seen)
			*seen = now;
		else
			bpf_map_update_elem(&connections, connection, &now, BPF_ANY);
		return 1;
	}
	connection->direction = direction == INBOUND ? OUTBOUND : INBOUND;
	seen = bpf_map_lookup_elem(&connections, connection);
	return seen && now - *seen < idle;
}

static __always_inline int has_ports(__u8 protocol)
{
	return protocol == IPPROTO_TCP || protocol == IPPROTO_UDP;
}

static __always_inline int guard_ipv4(struct xdp_md *ctx, struct network *network, void *end)
{
	struct iphdr *ip = network->at;
	struct connection connection = {};
	__be16 *ports;

	if ((void *)(ip + 1) > end || ip->version != 4)
		return count(DROPPED_MALFORMED, XDP_DROP);
	if (is_ours_ipv4(ip->daddr))
		return redirect(ctx);
	if (network->is_tagged)
		return count(PASSED, XDP_PASS);
	ports = network->at + ip->ihl * 4;
	if ((ip->frag_off & bpf_htons(FRAGMENT)) || !has_ports(ip->protocol) || (void *)(ports + 2) > end)
		return redirect(ctx);
	map_ipv4(&connection.local, ip->daddr);
	map_ipv4(&connection.remote, ip->saddr);
	connection.local_port = ports[1];
	connection.remote_port = ports[0];
	connection.protocol = ip->protocol;
	return passes(&connection, INBOUND) ? count(PASSED, XDP_PASS) : redirect(ctx);
}

static __always_inline int guard_ipv6(struct xdp_md *ctx, struct network *network, void *end)
{
	struct ipv6hdr *ip = network->at;
	struct connection connection = {};
	__be16 *ports = (void *)(ip + 1);
	__u8 *type = (void *)(ip + 1);

	if ((void *)(ip + 1) > end || ip->version != 6)
		return count(DROPPED_MALFORMED, XDP_DROP);
	if (is_ours_ipv6(&ip->daddr))
		return redirect(ctx);
	if (network->is_tagged)
		return count(PASSED, XDP_PASS);
	if (ip->nexthdr == IPPROTO_ICMPV6 && ip->hop_limit == ND_HOP_LIMIT && (void *)(type + 1) <= end &&
	    *type >= ND_FIRST && *type <= ND_LAST)
		return count(PASSED, XDP_PASS);
	if (!has_ports(ip->nexthdr) || (void *)(ports + 2) > end)
		return redirect(ctx);
	connection.local = ip->daddr;
	connection.remote = ip->saddr;
	connection.local_port = ports[1];
	connection.remote_port = ports[0];
	connection.protocol = ip->nexthdr;
	return passes(&connection, INBOUND) ? count(PASSED, XDP_PASS) : redirect(ctx);
}

static __always_inline int guard(struct xdp_md *ctx)
{
	void *end = (void *)(long)ctx->data_end;
	struct network network;

	if (!find_network(ctx, &network))
		return count(DROPPED_MALFORMED, XDP_DROP);
	if (network.protocol == bpf_htons(ETH_P_IP))
		return guard_ipv4(ctx, &network, end);
	if (network.protocol == bpf_htons(ETH_P_IPV6))
		return guard_ipv6(ctx, &network, end);
	return count(PASSED, XDP_PASS);
}

SEC("xdp")
int steer_guarded(struct xdp_md *ctx)
{
	return guard(ctx);
}

SEC("xdp.frags")
int steer_guarded_frags(struct xdp_md *ctx)
{
	return guard(ctx);
}

// Whether the host may send the packet without the router: 1 yes, 0 no.
static __always_inline int leaves_ipv4(struct __sk_buff *skb)
{
	struct connection connection = {};
	struct iphdr ip;
	__be16 ports[2];

	if (bpf_skb_load_bytes(skb, ETH_HLEN, &ip, sizeof(ip)) || (ip.frag_off & bpf_htons(FRAGMENT)))
		return 0;
	if (!has_ports(ip.protocol) || bpf_skb_load_bytes(skb, ETH_HLEN + ip.ihl * 4, ports, sizeof(ports)))
		return 0;
	map_ipv4(&connection.local, ip.saddr);
	map_ipv4(&connection.remote, ip.daddr);
	connection.local_port = ports[0];
	connection.remote_port = ports[1];
	connection.protocol = ip.protocol;
	return passes(&connection, OUTBOUND);
}

static __always_inline int leaves_ipv6(struct __sk_buff *skb)
{
	struct connection connection = {};
	struct ipv6hdr ip;
	__be16 ports[2];
	__u8 type;

	if (bpf_skb_load_bytes(skb, ETH_HLEN, &ip, sizeof(ip)))
		return 0;
	if (ip.nexthdr == IPPROTO_ICMPV6 && ip.hop_limit == ND_HOP_LIMIT &&
	    !bpf_skb_load_bytes(skb, ETH_HLEN + sizeof(ip), &type, 1) && type >= ND_FIRST && type <= ND_LAST)
		return 1;
	if (!has_ports(ip.nexthdr) || bpf_skb_load_bytes(skb, ETH_HLEN + sizeof(ip), ports, sizeof(ports)))
		return 0;
	connection.local = ip.saddr;
	connection.remote = ip.daddr;
	connection.local_port = ports[0];
	connection.remote_port = ports[1];
	connection.protocol = ip.nexthdr;
	return passes(&connection, OUTBOUND);
}

SEC("classifier")
int steer_host_out(struct __sk_buff *skb)
{
	__u32 zero = 0, link = skb->ifindex;
	__u32 *pair = bpf_map_lookup_elem(&private_pair, &zero);
	__u8 source[ETH_ALEN] = { 0x02, 0x76, 0x72, link >> 16, link >> 8, link };

	// A VLAN's packets belong to the interface of the VLAN.
	if (skb->vlan_present)
		return TC_ACT_UNSPEC;
	if (skb->protocol == bpf_htons(ETH_P_IP)) {
		if (leaves_ipv4(skb))
			return TC_ACT_UNSPEC;
	} else if (skb->protocol == bpf_htons(ETH_P_IPV6)) {
		if (leaves_ipv6(skb))
			return TC_ACT_UNSPEC;
	} else {
		return TC_ACT_UNSPEC;
	}
	if (!pair || bpf_skb_store_bytes(skb, ETH_ALEN, source, sizeof(source), 0))
		return TC_ACT_SHOT;
	return bpf_redirect(*pair, 0);
}

// On the kernel's end of the private pair. Nobody but the router sends there.
SEC("classifier")
int steer_host_in(struct __sk_buff *skb)
{
	__u8 source[ETH_ALEN];
	__u32 link;

	if (bpf_skb_load_bytes(skb, ETH_ALEN, source, sizeof(source)))
		return TC_ACT_SHOT;
	if (source[0] != 0x02 || source[1] != 0x76 || source[2] != 0x72)
		return TC_ACT_UNSPEC;
	link = source[3] << 16 | source[4] << 8 | source[5];
	if (bpf_map_lookup_elem(&generic_links, &link)) {
		// Taken in here, whatever address it was sent to.
		if (skb->pkt_type == PACKET_OTHERHOST)
			bpf_skb_change_type(skb, PACKET_HOST);
		return TC_ACT_UNSPEC;
	}
	return bpf_redirect(link, BPF_F_INGRESS);
}

char LICENSE[] SEC("license") = "Dual MIT/GPL";
