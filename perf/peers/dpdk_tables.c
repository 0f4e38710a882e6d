/*
 * DPDK's lookup tables over routes, rules and keys that the measuring program has written, so that theirs and ours see the same.
 *
 *     dpdk_tables ipv4|ipv6|acl DIRECTORY CORE huge|small
 *
 * DIRECTORY holds arrays of little-endian 32-bit words; addresses of IPv6 are four words, the first the most significant:
 *
 *     ipv4   routes: address, length, value                       keys: address
 *     ipv6   routes: address, length, value                       keys: address
 *     acl    rules:  source, its length, destination, its length, first and last source port, first and last
 *                    destination port, protocol, its mask         keys: source, destination, source port,
 *                                                                 destination port, protocol
 *
 * Every table writes its answers, one word a key, to DIRECTORY/NAME.answers. No route is NO_VALUE; the answer to an ACL key is the
 * position of the first rule that matches, from 1, and 0 for none. Then it does what standard input says, a line a request:
 *
 *     round    look all keys up, and print what a lookup took: `round NAME p10 p50`, in ticks
 *     update   delete routes and add them again: `update NAME delete-p50 delete-p99 add-p50 add-p99`
 *
 * and ends each answer with `done`. A table that cannot be built is a line `refused NAME why`. It ends with its input.
 *
 * Bounds: COUNT_LIMIT words in a file, ROUND_WINDOWS windows in a round, UPDATES routes and UPDATE_SECONDS in an update of one
 * table, FILL_SECONDS to fill one.
 */

#include <errno.h>
#include <inttypes.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <rte_acl.h>
#include <rte_byteorder.h>
#include <rte_cycles.h>
#include <rte_eal.h>
#include <rte_errno.h>
#include <rte_fib.h>
#include <rte_fib6.h>
#include <rte_lpm.h>
#include <rte_lpm6.h>

#define NO_VALUE 0xffffffffu
/* What a table of 24-bit next hops can hold; turned into NO_VALUE on the way out. */
#define NO_ROUTE 0x00fffffeu
#define BURST 256u
#define WINDOW 1024u
#define ROUND_WINDOWS 1024u
#define UPDATES 10000u
#define UPDATE_SECONDS 2u
#define FILL_SECONDS 30u
#define COUNT_LIMIT (64u << 20)
#define TABLES 4u

struct words {
	uint32_t *data;
	size_t count;
};

/* A table behind the three things that are asked of it. */
struct table {
	const char *name;
	void *own;
	/* A burst of keys from position `first`; what it finds is read by `value`. */
	void (*lookup)(void *own, size_t first);
	uint32_t (*value)(unsigned position);
	int (*add)(void *own, size_t route);
	int (*delete)(void *own, size_t route);
};

static struct words routes, keys;
static size_t route_count, key_count;
static struct table tables[TABLES];
static unsigned table_count;

/* Keys in the form that the library wants them in. */
static uint8_t (*keys6)[16];
static uint32_t found32[BURST];
static uint64_t found64[BURST];

static void fail(const char *what, const char *why)
{
	fprintf(stderr, "dpdk_tables: %s: %s\n", what, why);
	exit(1);
}

static void refuse(const char *name)
{
	printf("refused %s %s\n", name, rte_strerror(rte_errno));
}

static struct words read_words(const char *directory, const char *name)
{
	char path[4096];
	struct words words;
	snprintf(path, sizeof(path), "%s/%s", directory, name);
	FILE *file = fopen(path, "rb");
	if (file == NULL || fseek(file, 0, SEEK_END) != 0)
		fail(path, strerror(errno));
	long size = ftell(file);
	if (size <= 0 || size % 4 != 0 || (size_t)size / 4 > COUNT_LIMIT)
		fail(path, "expected words of 32 bits, and no more than 64 million");
	words.count = (size_t)size / 4;
	words.data = malloc((size_t)size);
	rewind(file);
	if (words.data == NULL || fread(words.data, 4, words.count, file) != words.count)
		fail(path, "read");
	fclose(file);
	return words;
}

static void bytes_of(const uint32_t *words, uint8_t out[16])
{
	for (unsigned i = 0; i < 4; i++) {
		uint32_t big = rte_cpu_to_be_32(words[i]);
		memcpy(out + 4 * i, &big, 4);
	}
}

static uint32_t value32(unsigned position)
{
	return found32[position];
}

static uint32_t value64(unsigned position)
{
	return found64[position] == NO_ROUTE ? NO_VALUE : (uint32_t)found64[position];
}

/* ---- IPv4 ---- */

static void lpm_lookup(void *own, size_t first)
{
	rte_lpm_lookup_bulk(own, keys.data + first, found32, BURST);
}

static uint32_t lpm_value(unsigned position)
{
	uint32_t found = found32[position];
	return found & RTE_LPM_LOOKUP_SUCCESS ? found & 0x00ffffff : NO_VALUE;
}

static int lpm_add(void *own, size_t route)
{
	const uint32_t *words = routes.data + 3 * route;
	return rte_lpm_add(own, words[0], (uint8_t)words[1], words[2]);
}

static int lpm_delete(void *own, size_t route)
{
	const uint32_t *words = routes.data + 3 * route;
	return rte_lpm_delete(own, words[0], (uint8_t)words[1]);
}

/* Four keys at a time, as the l3fwd example looks them up. */
static void lpm_lookupx4(void *own, size_t first)
{
	for (unsigned i = 0; i < BURST; i += 4) {
		xmm_t four;
		memcpy(&four, keys.data + first + i, sizeof(four));
		rte_lpm_lookupx4(own, four, found32 + i, NO_VALUE);
	}
}

static void fib_lookup(void *own, size_t first)
{
	rte_fib_lookup_bulk(own, keys.data + first, found64, BURST);
}

static int fib_add(void *own, size_t route)
{
	const uint32_t *words = routes.data + 3 * route;
	return rte_fib_add(own, words[0], (uint8_t)words[1], words[2]);
}

static int fib_delete(void *own, size_t route)
{
	const uint32_t *words = routes.data + 3 * route;
	return rte_fib_delete(own, words[0], (uint8_t)words[1]);
}

/* ---- IPv6 ---- */

static void lpm6_lookup(void *own, size_t first)
{
	rte_lpm6_lookup_bulk_func(own, keys6 + first, (int32_t *)found32, BURST);
}

static int lpm6_add(void *own, size_t route)
{
	const uint32_t *words = routes.data + 6 * route;
	uint8_t address[16];
	bytes_of(words, address);
	return rte_lpm6_add(own, address, (uint8_t)words[4], words[5]);
}

static int lpm6_delete(void *own, size_t route)
{
	const uint32_t *words = routes.data + 6 * route;
	uint8_t address[16];
	bytes_of(words, address);
	return rte_lpm6_delete(own, address, (uint8_t)words[4]);
}

static void fib6_lookup(void *own, size_t first)
{
	rte_fib6_lookup_bulk(own, keys6 + first, found64, BURST);
}

static int fib6_add(void *own, size_t route)
{
	const uint32_t *words = routes.data + 6 * route;
	uint8_t address[16];
	bytes_of(words, address);
	return rte_fib6_add(own, address, (uint8_t)words[4], words[5]);
}

static int fib6_delete(void *own, size_t route)
{
	const uint32_t *words = routes.data + 6 * route;
	uint8_t address[16];
	bytes_of(words, address);
	return rte_fib6_delete(own, address, (uint8_t)words[4]);
}

/* ---- ACL ---- */

/* What the library reads: everything big-endian, one byte first, then groups of four. */
struct tuple {
	uint8_t protocol;
	uint8_t unused[3];
	rte_be32_t source, destination;
	rte_be16_t source_port, destination_port;
};

#define RULE_WORDS 10u
#define KEY_WORDS 5u
#define FIELDS 5u

RTE_ACL_RULE_DEF(acl_rule, FIELDS);

static struct rte_acl_field_def fields[FIELDS] = {
	{ RTE_ACL_FIELD_TYPE_BITMASK, 1, 0, 0, offsetof(struct tuple, protocol) },
	{ RTE_ACL_FIELD_TYPE_MASK, 4, 1, 1, offsetof(struct tuple, source) },
	{ RTE_ACL_FIELD_TYPE_MASK, 4, 2, 2, offsetof(struct tuple, destination) },
	{ RTE_ACL_FIELD_TYPE_RANGE, 2, 3, 3, offsetof(struct tuple, source_port) },
	{ RTE_ACL_FIELD_TYPE_RANGE, 2, 4, 3, offsetof(struct tuple, destination_port) },
};

static struct tuple *tuples;
static const uint8_t **tuple_pointers;

static void acl_lookup_by(void *own, size_t first, enum rte_acl_classify_alg how)
{
	if (rte_acl_classify_alg(own, tuple_pointers + first, found32, BURST, 1, how) != 0)
		fail("rte_acl_classify_alg", "refused");
}

static enum rte_acl_classify_alg best = RTE_ACL_CLASSIFY_SCALAR;

static void acl_lookup_best(void *own, size_t first)
{
	acl_lookup_by(own, first, best);
}

static void acl_lookup_scalar(void *own, size_t first)
{
	acl_lookup_by(own, first, RTE_ACL_CLASSIFY_SCALAR);
}

/* ---- building ---- */

static void keep(struct table table)
{
	if (table_count == TABLES)
		fail(table.name, "one table too many");
	tables[table_count++] = table;
}

/* Fills a table with all routes, or says why it takes no more of them. */
static void fill(struct table table)
{
	uint64_t start = rte_rdtsc();
	for (size_t i = 0; i < route_count; i++) {
		int result = table.add(table.own, i);
		if (result < 0) {
			printf("refused %s route %zu of %zu: %s\n", table.name, i, route_count, rte_strerror(-result));
			return;
		}
		if (i % 1024 == 0 && rte_rdtsc() - start > FILL_SECONDS * rte_get_tsc_hz()) {
			printf("refused %s %zu of %zu routes after %u s\n", table.name, i, route_count, FILL_SECONDS);
			return;
		}
	}
	printf("built %s %" PRIu64 "\n", table.name, rte_rdtsc() - start);
	keep(table);
}

static void build_ipv4(void)
{
	struct rte_lpm_config lpm_config = { .max_rules = (uint32_t)route_count + 1024, .number_tbl8s = 1 << 17 };
	struct rte_lpm *lpm = rte_lpm_create("lpm", 0, &lpm_config);
	if (lpm == NULL) {
		refuse("rte_lpm");
	} else {
		fill((struct table){ "rte_lpm", lpm, lpm_lookup, lpm_value, lpm_add, lpm_delete });
		if (table_count == 1)
			keep((struct table){ "rte_lpm_x4", lpm, lpm_lookupx4, value32, NULL, NULL });
	}
	struct rte_fib_conf fib_config = {
		.type = RTE_FIB_DIR24_8,
		.default_nh = NO_ROUTE,
		.max_routes = 2 * (int)route_count + 1024,
		.dir24_8 = { .nh_sz = RTE_FIB_DIR24_8_4B, .num_tbl8 = 1 << 17 },
	};
	struct rte_fib *fib = rte_fib_create("fib", 0, &fib_config);
	if (fib == NULL)
		refuse("rte_fib");
	else
		fill((struct table){ "rte_fib", fib, fib_lookup, value64, fib_add, fib_delete });
}

static void build_ipv6(void)
{
	keys6 = malloc(16 * key_count);
	if (keys6 == NULL)
		fail("keys", "out of memory");
	for (size_t i = 0; i < key_count; i++)
		bytes_of(keys.data + 4 * i, keys6[i]);
	struct rte_lpm6_config lpm_config = { .max_rules = (uint32_t)route_count + 1024, .number_tbl8s = 1 << 19 };
	struct rte_lpm6 *lpm = rte_lpm6_create("lpm6", 0, &lpm_config);
	if (lpm == NULL)
		refuse("rte_lpm6");
	else
		fill((struct table){ "rte_lpm6", lpm, lpm6_lookup, value32, lpm6_add, lpm6_delete });
	struct rte_fib6_conf fib_config = {
		.type = RTE_FIB6_TRIE,
		.default_nh = NO_ROUTE,
		.max_routes = 2 * (int)route_count + 1024,
		.trie = { .nh_sz = RTE_FIB6_TRIE_4B, .num_tbl8 = 1 << 20 },
	};
	struct rte_fib6 *fib = rte_fib6_create("fib6", 0, &fib_config);
	if (fib == NULL)
		refuse("rte_fib6");
	else
		fill((struct table){ "rte_fib6", fib, fib6_lookup, value64, fib6_add, fib6_delete });
}

static struct acl_rule rule_of(const uint32_t *words, uint32_t position)
{
	struct acl_rule rule = { .data = { .userdata = position + 1, .category_mask = 1 } };
	rule.data.priority = (int32_t)(RTE_ACL_MAX_PRIORITY - position);
	rule.field[0].value.u8 = (uint8_t)words[8];
	rule.field[0].mask_range.u8 = (uint8_t)words[9];
	rule.field[1].value.u32 = words[0];
	rule.field[1].mask_range.u32 = words[1];
	rule.field[2].value.u32 = words[2];
	rule.field[2].mask_range.u32 = words[3];
	rule.field[3].value.u16 = (uint16_t)words[4];
	rule.field[3].mask_range.u16 = (uint16_t)words[5];
	rule.field[4].value.u16 = (uint16_t)words[6];
	rule.field[4].mask_range.u16 = (uint16_t)words[7];
	return rule;
}

static void build_acl(void)
{
	static char name[32];
	tuples = calloc(key_count, sizeof(*tuples));
	tuple_pointers = calloc(key_count, sizeof(*tuple_pointers));
	if (tuples == NULL || tuple_pointers == NULL)
		fail("keys", "out of memory");
	for (size_t i = 0; i < key_count; i++) {
		const uint32_t *words = keys.data + KEY_WORDS * i;
		tuples[i].source = rte_cpu_to_be_32(words[0]);
		tuples[i].destination = rte_cpu_to_be_32(words[1]);
		tuples[i].source_port = rte_cpu_to_be_16((uint16_t)words[2]);
		tuples[i].destination_port = rte_cpu_to_be_16((uint16_t)words[3]);
		tuples[i].protocol = (uint8_t)words[4];
		tuple_pointers[i] = (const uint8_t *)&tuples[i];
	}
	struct rte_acl_param param = {
		.name = "acl", .socket_id = 0, .rule_size = RTE_ACL_RULE_SZ(FIELDS), .max_rule_num = (uint32_t)route_count
	};
	struct rte_acl_config config = { .num_categories = 1, .num_fields = FIELDS };
	memcpy(config.defs, fields, sizeof(fields));
	struct rte_acl_ctx *acl = rte_acl_create(&param);
	if (acl == NULL) {
		refuse("rte_acl");
		return;
	}
	uint64_t start = rte_rdtsc();
	for (size_t i = 0; i < route_count; i++) {
		struct acl_rule rule = rule_of(routes.data + RULE_WORDS * i, (uint32_t)i);
		if (rte_acl_add_rules(acl, (struct rte_acl_rule *)&rule, 1) != 0)
			fail("rte_acl_add_rules", "refused");
	}
	if (rte_acl_build(acl, &config) != 0)
		fail("rte_acl_build", "refused");
	printf("built rte_acl %" PRIu64 "\n", rte_rdtsc() - start);
	static const struct { enum rte_acl_classify_alg how; const char *name; } vectors[] = {
		{ RTE_ACL_CLASSIFY_AVX512X32, "avx512x32" }, { RTE_ACL_CLASSIFY_AVX512X16, "avx512x16" },
		{ RTE_ACL_CLASSIFY_AVX2, "avx2" }, { RTE_ACL_CLASSIFY_SSE, "sse" },
	};
	for (unsigned i = 0; i < RTE_DIM(vectors); i++) {
		/* A way that this processor does not have is refused here. */
		if (rte_acl_set_ctx_classify(acl, vectors[i].how) == 0) {
			best = vectors[i].how;
			snprintf(name, sizeof(name), "rte_acl_%s", vectors[i].name);
			keep((struct table){ name, acl, acl_lookup_best, value32, NULL, NULL });
			break;
		}
	}
	keep((struct table){ "rte_acl_scalar", acl, acl_lookup_scalar, value32, NULL, NULL });
}

/* ---- measuring ---- */

static int by_size(const void *left, const void *right)
{
	uint64_t a = *(const uint64_t *)left, b = *(const uint64_t *)right;
	return a < b ? -1 : a > b;
}

static double percentile(uint64_t *sorted, unsigned count, unsigned percent)
{
	return count == 0 ? 0 : (double)sorted[(uint64_t)(count - 1) * percent / 100];
}

static void measure(const struct table *table)
{
	static uint64_t ticks[ROUND_WINDOWS];
	size_t first = 0;
	for (unsigned window = 0; window < ROUND_WINDOWS; window++) {
		uint64_t start = rte_rdtsc_precise();
		for (unsigned i = 0; i < WINDOW; i += BURST)
			table->lookup(table->own, first + i);
		ticks[window] = rte_rdtsc_precise() - start;
		first = first + 2 * WINDOW > key_count ? 0 : first + WINDOW;
	}
	qsort(ticks, ROUND_WINDOWS, sizeof(*ticks), by_size);
	printf("round %s %.3f %.3f\n", table->name, percentile(ticks, ROUND_WINDOWS, 10) / WINDOW,
	       percentile(ticks, ROUND_WINDOWS, 50) / WINDOW);
}

static void update(const struct table *table)
{
	static uint64_t deletes[UPDATES], adds[UPDATES];
	unsigned count = 0;
	if (table->add == NULL || route_count == 0)
		return;
	/* A prime step: all over the table, and no route twice before all have been. */
	uint64_t end = rte_rdtsc() + UPDATE_SECONDS * rte_get_tsc_hz();
	for (size_t route = 0; count < UPDATES && count < route_count; count++, route = (route + 7919) % route_count) {
		uint64_t start = rte_rdtsc_precise();
		if (start > end)
			break;
		int deleted = table->delete(table->own, route);
		uint64_t middle = rte_rdtsc_precise();
		int added = table->add(table->own, route);
		adds[count] = rte_rdtsc_precise() - middle;
		deletes[count] = middle - start;
		if (deleted < 0 || added < 0) {
			printf("refused %s update of route %zu\n", table->name, route);
			return;
		}
	}
	qsort(deletes, count, sizeof(*deletes), by_size);
	qsort(adds, count, sizeof(*adds), by_size);
	printf("update %s %.0f %.0f %.0f %.0f\n", table->name, percentile(deletes, count, 50), percentile(deletes, count, 99),
	       percentile(adds, count, 50), percentile(adds, count, 99));
}

static void write_answers(const struct table *table, const char *directory)
{
	char path[4096];
	snprintf(path, sizeof(path), "%s/%s.answers", directory, table->name);
	FILE *file = fopen(path, "wb");
	if (file == NULL)
		fail(path, strerror(errno));
	for (size_t first = 0; first < key_count; first += BURST) {
		uint32_t answers[BURST];
		table->lookup(table->own, first);
		for (unsigned i = 0; i < BURST; i++)
			answers[i] = table->value(i);
		if (fwrite(answers, sizeof(answers), 1, file) != 1)
			fail(path, "write");
	}
	if (fclose(file) != 0)
		fail(path, strerror(errno));
}

static void start_dpdk(const char *core, const char *pages)
{
	char *huge[] = { "dpdk_tables", "-l", (char *)core, "--no-pci", "--no-telemetry", "--log-level=4",
			 "--force-max-simd-bitwidth=512", "--in-memory", NULL };
	/* Without large pages there is no memory that grows, so all of it is asked for at once; what is not touched costs nothing. */
	char *small[] = { "dpdk_tables", "-l", (char *)core, "--no-pci", "--no-telemetry", "--log-level=4",
			  "--force-max-simd-bitwidth=512", "--no-huge", "--no-shconf", "-m", "2560", NULL };
	int is_huge = strcmp(pages, "huge") == 0;
	char **arguments = is_huge ? huge : small;
	int count = (int)(is_huge ? RTE_DIM(huge) : RTE_DIM(small)) - 1;
	if (rte_eal_init(count, arguments) < 0)
		fail("start DPDK", rte_strerror(rte_errno));
}

int main(int count, char **arguments)
{
	if (count != 5)
		fail("usage", "dpdk_tables ipv4|ipv6|acl DIRECTORY CORE huge|small");
	const char *kind = arguments[1], *directory = arguments[2];
	setvbuf(stdout, NULL, _IOLBF, 0);
	start_dpdk(arguments[3], arguments[4]);
	int is_ipv6 = strcmp(kind, "ipv6") == 0, is_acl = strcmp(kind, "acl") == 0;
	routes = read_words(directory, is_acl ? "rules" : "routes");
	keys = read_words(directory, "keys");
	route_count = routes.count / (is_acl ? RULE_WORDS : is_ipv6 ? 6 : 3);
	key_count = keys.count / (is_acl ? KEY_WORDS : is_ipv6 ? 4 : 1);
	if (key_count % WINDOW != 0)
		fail("keys", "expected whole windows of 1024");
	printf("hz %" PRIu64 "\n", rte_get_tsc_hz());
	if (is_acl)
		build_acl();
	else if (is_ipv6)
		build_ipv6();
	else
		build_ipv4();
	for (unsigned i = 0; i < table_count; i++)
		write_answers(&tables[i], directory);
	puts("done");
	char line[64];
	while (fgets(line, sizeof(line), stdin) != NULL) {
		for (unsigned i = 0; i < table_count; i++) {
			if (strcmp(line, "round\n") == 0)
				measure(&tables[i]);
			else if (strcmp(line, "update\n") == 0)
				update(&tables[i]);
		}
		puts("done");
	}
	return 0;
}
