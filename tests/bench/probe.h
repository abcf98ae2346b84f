/* SPDX-License-Identifier: Apache-2.0 */
#ifndef OBD_PROBE_H
#define OBD_PROBE_H
/*
 * What is measured, and what it is measured against, in one process, so that both see the same machine.
 *
 * The disk is DATA, a file of real files. It is stored as a stack of LAYERS layers: layer 0 holds all of it; of the
 * other layers each holds some chunks of CHUNK bytes, their bits inverted, so that a read from the wrong layer is
 * noticed.
 */
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum { LAYERS = 20, CHUNK = 64 * 1024, STREAM_HEADER = 4096, THREADS_MAX = 8 };

struct format {
	const char *name;
	unsigned algo; /* 0 raw, 1 lz4, 2 zstd */
	uint32_t block_size;
};

struct disk {
	const struct format *format;
	const char *folder;
	const uint8_t *data;
	uint64_t size;
	unsigned layers;
};

struct load {
	bool sequential;
	uint32_t count; /* bytes a request */
	unsigned depth; /* requests in flight, each with a buffer of its own */
	uint64_t offset, random;
};

/* Requests a second of the clock, and a second of CPU time of all threads. */
struct speed {
	double rate, cpu_rate;
	uint64_t allocations; /* meanwhile; of the core only */
};

/* The clocks at the beginning of what is measured. */
struct stopwatch {
	double wall, cpu;
	uint64_t allocations;
};

_Noreturn void die(const char *format, ...) __attribute__((format(printf, 1, 2)));
double seconds_now(void);
/* How often the core has asked for memory; the Makefile leads its calls past this. */
uint64_t allocations_so_far(void);
struct stopwatch stopwatch_start(void);
struct speed stopwatch_speed(const struct stopwatch *since, uint64_t requests);
/* "name": rate, "name_cpu": rate */
void print_speed(const char *name, struct speed speed, const char *after);
uint64_t next_random(uint64_t *state);
const struct format *format_find(const char *name);

/* The layer a chunk is read from when a stack has all layers. Half of the chunks are in layer 0. */
unsigned chunk_layer(uint64_t chunk);
void layer_path(const struct disk *disk, unsigned layer, char *ret, size_t size);
void check_bytes(const struct disk *disk, uint64_t offset, const void *bytes, uint32_t count);
uint64_t load_next(struct load *load, uint64_t size);

void layers_write(const struct disk *disk);

/* The bare loop. */
struct limit;
struct limit *limit_open(const struct disk *disk);
void limit_close(struct limit *limit);
/* partial: lz4 may stop decoding where the request ends. check: compare bytes, for a run that is not timed. */
struct speed limit_run(struct limit *limit, struct load load, bool partial, double seconds, bool check);
/* The same on threads that share nothing but the machine; the sum. */
struct speed limit_run_threads(struct limit **limits, unsigned threads, struct load load, double seconds);

/* The core, behind a front end that does nothing else. */
struct driver;
struct driver *driver_open(const struct disk *disk, unsigned helpers);
void driver_close(struct driver *driver);
struct speed driver_run(struct driver *driver, struct load load, double seconds, bool check);

void lookup_rounds(uint64_t segments, const char *shape, double seconds, unsigned rounds);

#endif
