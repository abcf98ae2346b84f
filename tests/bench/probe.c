/* SPDX-License-Identifier: Apache-2.0 */
/* The command line of the probe: one row of the benchmark a call, one line of JSON a round. */
#include <fcntl.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "probe.h"

static const struct format formats[] = {
	{"plain", 0, 0},       {"lz4-4k", 1, 4096},  {"lz4-32k", 1, 32768},
	{"lz4-64k", 1, 65536}, {"zstd-4k", 2, 4096}, {"zstd-64k", 2, 65536},
};

void die(const char *format, ...)
{
	va_list arguments;

	va_start(arguments, format);
	vfprintf(stderr, format, arguments);
	va_end(arguments);
	fputc('\n', stderr);
	exit(1);
}

double seconds_now(void)
{
	struct timespec now;

	clock_gettime(CLOCK_MONOTONIC, &now);
	return (double)now.tv_sec + (double)now.tv_nsec * 1e-9;
}

static double cpu_seconds_now(void)
{
	struct timespec now;

	clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &now);
	return (double)now.tv_sec + (double)now.tv_nsec * 1e-9;
}

/* ---- memory the core asks for */

static uint64_t allocations; /* atomic */

void *__real_malloc(size_t size);
void *__real_calloc(size_t count, size_t size);
void *__real_realloc(void *memory, size_t size);
void *__real_aligned_alloc(size_t alignment, size_t size);

void *__wrap_malloc(size_t size)
{
	__atomic_add_fetch(&allocations, 1, __ATOMIC_RELAXED);
	return __real_malloc(size);
}

void *__wrap_calloc(size_t count, size_t size)
{
	__atomic_add_fetch(&allocations, 1, __ATOMIC_RELAXED);
	return __real_calloc(count, size);
}

void *__wrap_realloc(void *memory, size_t size)
{
	__atomic_add_fetch(&allocations, 1, __ATOMIC_RELAXED);
	return __real_realloc(memory, size);
}

void *__wrap_aligned_alloc(size_t alignment, size_t size)
{
	__atomic_add_fetch(&allocations, 1, __ATOMIC_RELAXED);
	return __real_aligned_alloc(alignment, size);
}

uint64_t allocations_so_far(void)
{
	return __atomic_load_n(&allocations, __ATOMIC_RELAXED);
}

struct stopwatch stopwatch_start(void)
{
	return (struct stopwatch){seconds_now(), cpu_seconds_now(), allocations_so_far()};
}

struct speed stopwatch_speed(const struct stopwatch *since, uint64_t requests)
{
	return (struct speed){(double)requests / (seconds_now() - since->wall),
			      (double)requests / (cpu_seconds_now() - since->cpu),
			      allocations_so_far() - since->allocations};
}

void print_speed(const char *name, struct speed speed, const char *after)
{
	printf("\"%s\": %.1f, \"%s_cpu\": %.1f%s", name, speed.rate, name, speed.cpu_rate, after);
}

uint64_t next_random(uint64_t *state)
{
	uint64_t x = *state += UINT64_C(0x9E3779B97F4A7C15);

	x = (x ^ x >> 30) * UINT64_C(0xBF58476D1CE4E5B9);
	x = (x ^ x >> 27) * UINT64_C(0x94D049BB133111EB);
	return x ^ x >> 31;
}

const struct format *format_find(const char *name)
{
	for (size_t i = 0; i < sizeof(formats) / sizeof(*formats); i++)
		if (strcmp(formats[i].name, name) == 0)
			return &formats[i];
	die("%s: no such format", name);
}

unsigned chunk_layer(uint64_t chunk)
{
	uint64_t drawn = next_random(&chunk);

	return drawn & 1 ? 1 + (unsigned)(drawn >> 1) % (LAYERS - 1) : 0;
}

void layer_path(const struct disk *disk, unsigned layer, char *ret, size_t size)
{
	snprintf(ret, size, "%s/%s.%02u", disk->folder, disk->format->name, layer);
}

void check_bytes(const struct disk *disk, uint64_t offset, const void *bytes, uint32_t count)
{
	const uint8_t *is = bytes;

	for (uint32_t i = 0; i < count; i++) {
		uint64_t at = offset + i;
		bool inverted = disk->layers > 1 && chunk_layer(at / CHUNK) > 0;

		if (is[i] != (uint8_t)(disk->data[at] ^ (inverted ? 0xFF : 0)))
			die("%s, %u layers: wrong byte at %llu", disk->format->name, disk->layers,
			    (unsigned long long)at);
	}
}

uint64_t load_next(struct load *load, uint64_t size)
{
	uint64_t at;

	if (!load->sequential)
		return next_random(&load->random) % (size / load->count) * load->count;
	at = load->offset;
	load->offset += load->count;
	if (load->offset + load->count > size)
		load->offset = 0;
	return at;
}

static struct disk disk_open(const char *data, const char *folder, const char *format, unsigned layers)
{
	struct disk disk = {.format = format_find(format), .folder = folder, .layers = layers};
	int fd = open(data, O_RDONLY | O_CLOEXEC);
	struct stat status;

	if (fd < 0 || fstat(fd, &status) < 0)
		die("%s: cannot be opened", data);
	disk.size = (uint64_t)status.st_size / CHUNK * CHUNK;
	disk.data = mmap(NULL, disk.size, PROT_READ, MAP_SHARED, fd, 0);
	if (disk.data == MAP_FAILED)
		die("%s: cannot be mapped", data);
	close(fd);
	return disk;
}

struct row {
	struct load load;
	unsigned helpers, rounds;
	double seconds;
};

/* Ours and the limits by turns, so that a noisy neighbour hits all. */
static void read_rounds(const struct disk *disk, const struct row *row)
{
	const unsigned threads = row->helpers + 1;
	struct limit *limits[THREADS_MAX];
	struct driver *driver = driver_open(disk, row->helpers);
	bool partial = disk->format->algo == 1 && row->load.count < disk->format->block_size;
	struct load load = row->load;
	struct speed ours;

	if (!allocations_so_far())
		die("nobody counts what the core allocates");
	for (unsigned i = 0; i < threads; i++)
		limits[i] = limit_open(disk);
	driver_run(driver, load, row->seconds / 2, true);
	limit_run(limits[0], load, false, row->seconds / 2, true);
	for (unsigned i = 0; i < row->rounds; i++) {
		load.random += 1000003;
		printf("{");
		print_speed("limit", limit_run(limits[0], load, false, row->seconds, false), ", ");
		if (partial)
			print_speed("limit_partial", limit_run(limits[0], load, true, row->seconds, false), ", ");
		if (threads > 1)
			print_speed("limit_threads", limit_run_threads(limits, threads, load, row->seconds), ", ");
		ours = driver_run(driver, load, row->seconds, false);
		print_speed("ours", ours, ", ");
		printf("\"allocations\": %llu}\n", (unsigned long long)ours.allocations);
	}
	driver_close(driver);
	for (unsigned i = 0; i < threads; i++)
		limit_close(limits[i]);
}

static const char usage[] = "probe write DATA FOLDER FORMAT\n"
			    "probe read DATA FOLDER FORMAT LAYERS random|sequential COUNT DEPTH HELPERS "
			    "SECONDS ROUNDS\n"
			    "probe lookup SEGMENTS even|ext4 SECONDS ROUNDS";

static unsigned number(const char *text)
{
	return (unsigned)strtoul(text, NULL, 10);
}

int main(int argc, char **argv)
{
	if (argc == 5 && strcmp(argv[1], "write") == 0) {
		struct disk disk = disk_open(argv[2], argv[3], argv[4], LAYERS);

		layers_write(&disk);
	} else if (argc == 12 && strcmp(argv[1], "read") == 0) {
		struct disk disk = disk_open(argv[2], argv[3], argv[4], number(argv[5]));
		struct row row = {
			.load = {.sequential = strcmp(argv[6], "sequential") == 0,
				 .count = number(argv[7]),
				 .depth = number(argv[8])},
			.helpers = number(argv[9]),
			.seconds = strtod(argv[10], NULL),
			.rounds = number(argv[11]),
		};

		if (disk.layers < 1 || disk.layers > LAYERS || !row.load.count || !row.load.depth ||
		    row.helpers >= THREADS_MAX)
			die("%s", usage);
		read_rounds(&disk, &row);
	} else if (argc == 6 && strcmp(argv[1], "lookup") == 0) {
		lookup_rounds(number(argv[2]), argv[3], strtod(argv[4], NULL), number(argv[5]));
	} else {
		die("%s", usage);
	}
	return 0;
}
