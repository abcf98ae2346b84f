/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The index of a directory: a tree over the hashes of names, whose leaves are the blocks of entries. Block 0 is its
 * root, and looks like a block with "." and ".." to whoever knows no index; so does every block to a linear reader.
 *
 *     root   0 "."  12 ".."  24 u32 0, u8 hash version, u8 8, u8 levels, u8 0   32 entries
 *     node   0 an unused entry of a whole block                                  8 entries
 *
 *     entry  u32 hash, u32 block; the first one has no hash (it is the lowest), but u16 limit, u16 count there
 *
 * An entry leads to the names with hashes from its own up to the next one's. Hashes are even: an odd one says that
 * names with the even hash before it are in the block before, too. With metadata_csum the last 8 bytes hold a checksum.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "dir.h"

enum {
	LEVELS = 4, /**< of index blocks at most: two, with largedir three, and one to be safe */
	ROOT_INFO = 24,
	ROOT_ENTRIES = 32,
	NODE_ENTRIES = 8,
	TAIL = 8,
};

/** One level of the way from the root to a leaf. */
struct level {
	uint32_t block;
	uint8_t *buffer;
	struct ext2_dx_entry *entries;
	unsigned limit, count;
	unsigned at; /**< the entry that was taken */
};

struct way {
	struct level level[LEVELS];
	unsigned levels;
	int version; /**< as ext2fs_dirhash wants it */
	uint32_t hash;
};

bool obd_htree_used(const struct obd_fs *fs, const struct obd_inode *dir)
{
	return ext2fs_has_feature_dir_index(fs->e2->super) && dir->raw.i_flags & EXT2_INDEX_FL;
}

static int hash_version(const struct obd_fs *fs, uint8_t version)
{
	return version <= EXT2_HASH_TEA && fs->e2->super->s_flags & EXT2_FLAGS_UNSIGNED_HASH ? version + 3 : version;
}

static int hash_of(struct obd_fs *fs, int version, const char *name, size_t length, uint32_t *ret)
{
	const errcode_t code = ext2fs_dirhash(version, name, (int)length, fs->e2->super->s_hash_seed, ret, NULL);

	return code ? obd_fs_fail(fs, code, "hash version %d of a directory", version) : 0;
}

static unsigned limit_of(const struct obd_fs *fs, unsigned offset)
{
	const unsigned tail = ext2fs_has_feature_metadata_csum(fs->e2->super) ? TAIL : 0;

	return (fs->block_size - offset - tail) / (unsigned)sizeof(struct ext2_dx_entry);
}

static uint32_t entry_hash(const struct ext2_dx_entry *entry)
{
	return ext2fs_le32_to_cpu(entry->hash);
}

static uint32_t entry_block(const struct ext2_dx_entry *entry)
{
	return ext2fs_le32_to_cpu(entry->block) & EXT4_DX_BLOCK_MASK;
}

static void set_count(struct level *level, unsigned count)
{
	struct ext2_dx_countlimit *head = (void *)level->entries;

	level->count = count;
	head->count = ext2fs_cpu_to_le16((uint16_t)count);
	head->limit = ext2fs_cpu_to_le16((uint16_t)level->limit);
}

static int damaged(struct obd_fs *fs, const struct obd_inode *dir, uint32_t block, const char *what)
{
	return obd_fs_corrupt(fs, "index of directory inode %u, block %u: %s", dir->ino, block, what);
}

/** Looks at a block that has been read as an index block with its entries at offset. */
static int view(struct obd_fs *fs, struct obd_inode *dir, struct level *level, unsigned offset)
{
	const struct ext2_dx_countlimit *head;

	level->entries = (void *)(level->buffer + offset);
	head = (const void *)level->entries;
	level->limit = ext2fs_le16_to_cpu(head->limit);
	level->count = ext2fs_le16_to_cpu(head->count);
	if (level->limit != limit_of(fs, offset) || !level->count || level->count > level->limit)
		return damaged(fs, dir, level->block, "wrong number of entries");
	return 0;
}

static int read_root(struct obd_fs *fs, struct obd_inode *dir, struct way *way)
{
	const struct ext2_dx_root_info *info;
	struct level *root = &way->level[0];
	const unsigned most = ext2fs_has_feature_largedir(fs->e2->super) ? 3 : 2;
	int r;

	root->block = 0;
	root->buffer = obd_fs_scratch(fs, OBD_SCRATCH_INDEX);
	r = obd_dir_read(fs, dir, 0, root->buffer);
	if (r)
		return r;
	info = (const void *)(root->buffer + ROOT_INFO);
	if (info->reserved_zero || info->info_length != 8 || info->unused_flags & 1)
		return damaged(fs, dir, 0, "not a root");
	if (info->indirect_levels >= most)
		return damaged(fs, dir, 0, "too many levels");
	way->levels = info->indirect_levels + 1u;
	way->version = hash_version(fs, info->hash_version);
	return view(fs, dir, root, ROOT_ENTRIES);
}

/** The last entry whose hash is not above the wanted one; the first one has none. */
static unsigned choose(const struct level *level, uint32_t hash)
{
	unsigned low = 1, high = level->count;

	while (low < high) {
		const unsigned middle = (low + high) / 2;

		if (entry_hash(&level->entries[middle]) > hash)
			high = middle;
		else
			low = middle + 1;
	}
	return low - 1;
}

/** Reads the node that level number - 1 has chosen. */
static int read_node(struct obd_fs *fs, struct obd_inode *dir, struct way *way, unsigned number)
{
	const struct level *above = &way->level[number - 1];
	struct level *level = &way->level[number];
	int r;

	level->block = entry_block(&above->entries[above->at]);
	level->buffer = obd_fs_scratch(fs, OBD_SCRATCH_INDEX + number);
	if (!level->block)
		return damaged(fs, dir, above->block, "leads to the root");
	r = obd_dir_read(fs, dir, level->block, level->buffer);
	return r ? r : view(fs, dir, level, NODE_ENTRIES);
}

static int find_way(struct obd_fs *fs, struct obd_inode *dir, const char *name, size_t length, struct way *way)
{
	int r = read_root(fs, dir, way);

	if (!r)
		r = hash_of(fs, way->version, name, length, &way->hash);
	for (unsigned i = 0; !r && i < way->levels; i++) {
		if (i)
			r = read_node(fs, dir, way, i);
		if (!r)
			way->level[i].at = choose(&way->level[i], way->hash);
	}
	return r;
}

static uint32_t leaf_of(const struct way *way)
{
	const struct level *last = &way->level[way->levels - 1];

	return entry_block(&last->entries[last->at]);
}

/** To the next leaf, if names of our hash may be there: 1 it is so, 0 not. */
static int next_leaf(struct obd_fs *fs, struct obd_inode *dir, struct way *way)
{
	unsigned i = way->levels - 1;
	int r = 0;

	while (++way->level[i].at >= way->level[i].count)
		if (i-- == 0)
			return 0;
	if ((entry_hash(&way->level[i].entries[way->level[i].at]) & ~1u) != way->hash)
		return 0;
	while (!r && ++i < way->levels) {
		r = read_node(fs, dir, way, i);
		way->level[i].at = 0;
	}
	return r ? r : 1;
}

int obd_htree_find(struct obd_fs *fs, struct obd_inode *dir, const char *name, size_t length, struct obd_entry *ret)
{
	uint8_t *buffer = obd_fs_scratch(fs, OBD_SCRATCH_DIR);
	struct way way;
	int r = find_way(fs, dir, name, length, &way);

	while (!r) {
		ret->block = leaf_of(&way);
		if (!ret->block)
			return damaged(fs, dir, 0, "the root is a leaf");
		r = obd_dir_read(fs, dir, ret->block, buffer);
		if (!r)
			r = obd_dir_find_in(fs, dir, buffer, name, length, ret);
		if (r)
			return r;
		r = next_leaf(fs, dir, &way);
		if (r <= 0)
			return r;
		r = 0;
	}
	return r;
}

/* ---- adding */

/** Behind the entry that was taken; there is room. The level is written. */
static int insert(struct obd_fs *fs, struct obd_inode *dir, struct level *level, uint32_t hash, uint32_t block)
{
	struct ext2_dx_entry *entry = &level->entries[level->at + 1];

	memmove(entry + 1, entry, (level->count - level->at - 1) * sizeof(*entry));
	entry->hash = ext2fs_cpu_to_le32(hash);
	entry->block = ext2fs_cpu_to_le32(block);
	set_count(level, level->count + 1);
	return obd_dir_write(fs, dir, level->block, level->buffer);
}

/** An index block with some entries of another one. */
static int new_node(struct obd_fs *fs, struct obd_inode *dir, const struct ext2_dx_entry *entries, unsigned count,
		    uint32_t *block)
{
	struct level node = {.buffer = obd_fs_scratch(fs, OBD_SCRATCH_NODE), .limit = limit_of(fs, NODE_ENTRIES)};
	int r = obd_dir_append_empty(fs, dir, block);

	if (r)
		return r;
	memset(node.buffer, 0, fs->block_size);
	r = obd_dir_set_length(fs, (struct ext2_dir_entry *)(void *)node.buffer, fs->block_size);
	if (r)
		return r;
	node.entries = (void *)(node.buffer + NODE_ENTRIES);
	memcpy(node.entries, entries, count * sizeof(*entries));
	set_count(&node, count);
	return obd_dir_write(fs, dir, *block, node.buffer);
}

/** The root's entries move to a node of their own. */
static int deepen(struct obd_fs *fs, struct obd_inode *dir, struct way *way)
{
	struct level *root = &way->level[0];
	struct ext2_dx_root_info *info = (void *)(root->buffer + ROOT_INFO);
	uint32_t block;
	int r;

	if (way->levels >= (ext2fs_has_feature_largedir(fs->e2->super) ? 3u : 2u))
		return obd_fs_fail(fs, ENOSPC, "the index of directory inode %u is full", dir->ino);
	r = new_node(fs, dir, root->entries, root->count, &block);
	if (r)
		return r;
	info->indirect_levels++;
	root->entries[0].block = ext2fs_cpu_to_le32(block);
	set_count(root, 1);
	return obd_dir_write(fs, dir, 0, root->buffer);
}

/** Makes room in the index, one step: splits the lowest full node under one with room, or adds a level. */
static int grow(struct obd_fs *fs, struct obd_inode *dir, struct way *way)
{
	unsigned full = way->levels - 1;
	struct level *level;
	unsigned half;
	uint32_t block;
	int r;

	while (full && way->level[full - 1].count == way->level[full - 1].limit)
		full--;
	if (!full)
		return deepen(fs, dir, way);
	level = &way->level[full];
	half = level->count / 2;
	r = new_node(fs, dir, &level->entries[half], level->count - half, &block);
	if (r)
		return r;
	r = insert(fs, dir, &way->level[full - 1], entry_hash(&level->entries[half]), block);
	set_count(level, half);
	return r ? r : obd_dir_write(fs, dir, level->block, level->buffer);
}

struct name {
	uint32_t hash;
	uint32_t offset, need;
};

static int by_hash(const void *a, const void *b)
{
	const struct name *left = a, *right = b;

	if (left->hash != right->hash)
		return left->hash < right->hash ? -1 : 1;
	return left->offset < right->offset ? -1 : left->offset > right->offset;
}

/** The names of a leaf, sorted by hash. */
static int names_of(struct obd_fs *fs, struct obd_inode *dir, int version, const uint8_t *buffer, struct name *names,
		    unsigned *count)
{
	struct ext2_dir_entry *entry;
	uint32_t taken;
	int r;

	*count = 0;
	for (uint32_t offset = 0; offset < obd_dir_room(fs); offset += taken) {
		struct name *name = &names[*count];

		r = obd_dir_entry(fs, dir, buffer, offset, &entry, &taken);
		if (r)
			return r;
		if (!entry->inode)
			continue;
		name->offset = offset;
		name->need = obd_dir_need((size_t)ext2fs_dirent_name_len(entry));
		r = hash_of(fs, version, entry->name, (size_t)ext2fs_dirent_name_len(entry), &name->hash);
		if (r)
			return r;
		(*count)++;
	}
	qsort(names, *count, sizeof(*names), by_hash);
	return 0;
}

/** A leaf in memory with the given names of another one. */
static int pack(struct obd_fs *fs, const uint8_t *from, const struct name *names, unsigned count, uint8_t *to)
{
	const uint32_t room = obd_dir_room(fs);
	uint32_t at = 0;
	int r = obd_dir_block_init(fs, to);

	for (unsigned i = 0; !r && i < count; i++) {
		struct ext2_dir_entry *entry = (struct ext2_dir_entry *)(void *)(to + at);

		memcpy(entry, from + names[i].offset, names[i].need);
		r = obd_dir_set_length(fs, entry, i + 1 < count ? names[i].need : room - at);
		at += names[i].need;
	}
	return r;
}

/** Where the second half, by size, begins. */
static unsigned middle_of(const struct name *names, unsigned count)
{
	uint32_t total = 0, size = 0;
	unsigned split = 0;

	for (unsigned i = 0; i < count; i++)
		total += names[i].need;
	while (split + 1 < count && (split == 0 || size + names[split].need <= total / 2))
		size += names[split++].need;
	return split;
}

/** The leaf in the directory's buffer becomes two, and the index knows. The index has room. */
static int split_names(struct obd_fs *fs, struct obd_inode *dir, struct way *way, uint8_t *leaf, struct name *names)
{
	struct level *last = &way->level[way->levels - 1];
	uint8_t *lower = obd_fs_scratch(fs, OBD_SCRATCH_SPLIT), *upper = lower + fs->block_size;
	const uint32_t block = leaf_of(way);
	unsigned count, middle;
	uint32_t added, hash;
	int r;

	r = names_of(fs, dir, way->version, leaf, names, &count);
	if (r)
		return r;
	if (count < 2)
		return damaged(fs, dir, block, "a full leaf without names");
	middle = middle_of(names, count);
	hash = names[middle].hash | (names[middle].hash == names[middle - 1].hash);
	r = pack(fs, leaf, names, middle, lower);
	if (!r)
		r = pack(fs, leaf, names + middle, count - middle, upper);
	if (!r)
		r = obd_dir_append_empty(fs, dir, &added);
	if (!r)
		r = obd_dir_write(fs, dir, added, upper);
	if (!r)
		r = insert(fs, dir, last, hash, added);
	return r ? r : obd_dir_write(fs, dir, block, lower);
}

static int split(struct obd_fs *fs, struct obd_inode *dir, struct way *way, uint8_t *leaf)
{
	struct name *names = malloc(fs->block_size / obd_dir_need(1) * sizeof(*names));
	int r;

	if (!names)
		return obd_fs_fail(fs, ENOMEM, "splitting a directory's block");
	r = split_names(fs, dir, way, leaf, names);
	free(names);
	return r;
}

int obd_htree_add(struct obd_fs *fs, struct obd_inode *dir, const char *name, size_t length, ext2_ino_t ino,
		  uint8_t type)
{
	uint8_t *leaf = obd_fs_scratch(fs, OBD_SCRATCH_DIR);
	struct way way;
	int r;

	// Each round that does not add makes room: a leaf is split once, an index once a level.
	for (;;) {
		const struct level *last;
		uint32_t block;

		r = find_way(fs, dir, name, length, &way);
		if (r)
			return r;
		block = leaf_of(&way);
		if (!block)
			return damaged(fs, dir, 0, "the root is a leaf");
		r = obd_dir_read(fs, dir, block, leaf);
		if (!r)
			r = obd_dir_add_in(fs, dir, leaf, name, length, ino, type);
		if (r)
			return r < 0 ? r : obd_dir_write(fs, dir, block, leaf);
		last = &way.level[way.levels - 1];
		r = last->count < last->limit ? split(fs, dir, &way, leaf) : grow(fs, dir, &way);
		if (r)
			return r;
	}
}

/** The root of a tree with one leaf, block 1. */
static int write_root(struct obd_fs *fs, struct obd_inode *dir, uint8_t *buffer)
{
	struct level root = {.buffer = buffer, .limit = limit_of(fs, ROOT_ENTRIES)};
	struct ext2_dx_root_info *info = (void *)(buffer + ROOT_INFO);
	const uint8_t version = fs->e2->super->s_def_hash_version;
	int r;

	memset(buffer + ROOT_INFO, 0, fs->block_size - ROOT_INFO);
	r = obd_dir_set_length(fs, (struct ext2_dir_entry *)(void *)(buffer + 12), fs->block_size - 12);
	if (r)
		return r;
	info->hash_version = version <= EXT2_HASH_TEA ? version : EXT2_HASH_HALF_MD4;
	info->info_length = 8;
	root.entries = (void *)(buffer + ROOT_ENTRIES);
	root.entries[0].block = ext2fs_cpu_to_le32(1);
	set_count(&root, 1);
	dir->raw.i_flags |= EXT2_INDEX_FL;
	r = obd_inode_write(fs, dir);
	return r ? r : obd_dir_write(fs, dir, 0, buffer);
}

/** "." and ".." come first, in 12 bytes each; behind the second one there may be some room. */
static bool begins_with_dots(const struct ext2_dir_entry *entry, uint32_t offset, uint32_t taken)
{
	const int length = ext2fs_dirent_name_len(entry);

	if (!offset)
		return length == 1 && entry->name[0] == '.' && taken == 12;
	return length == 2 && entry->name[0] == '.' && entry->name[1] == '.';
}

int obd_htree_make(struct obd_fs *fs, struct obd_inode *dir, uint8_t *buffer)
{
	uint8_t *root = obd_fs_scratch(fs, OBD_SCRATCH_INDEX), *leaf = obd_fs_scratch(fs, OBD_SCRATCH_SPLIT);
	struct ext2_dir_entry *entry, *to = NULL;
	uint32_t at = 0, taken, need, block;
	int r;

	memcpy(root, buffer, fs->block_size);
	r = obd_dir_block_init(fs, leaf);
	for (uint32_t offset = 0; !r && offset < obd_dir_room(fs); offset += taken) {
		r = obd_dir_entry(fs, dir, root, offset, &entry, &taken);
		if (!r && offset <= 12 && !begins_with_dots(entry, offset, taken))
			r = damaged(fs, dir, 0, "does not begin with . and ..");
		if (r || offset <= 12 || !entry->inode)
			continue;
		need = obd_dir_need((size_t)ext2fs_dirent_name_len(entry));
		to = (struct ext2_dir_entry *)(void *)(leaf + at);
		memcpy(to, entry, need);
		r = obd_dir_set_length(fs, to, need);
		at += need;
	}
	if (!r && !to)
		r = damaged(fs, dir, 0, "full, but without names");
	if (!r)
		r = obd_dir_set_length(fs, to, obd_dir_room(fs) - (uint32_t)((uint8_t *)to - leaf));
	if (!r)
		r = obd_dir_append_empty(fs, dir, &block);
	if (!r)
		r = obd_dir_write(fs, dir, block, leaf);
	return r ? r : write_root(fs, dir, root);
}

int obd_htree_mend(struct obd_fs *fs, struct obd_inode *dir)
{
	struct way way;
	int r;

	if (!obd_htree_used(fs, dir))
		return 0;
	r = read_root(fs, dir, &way);
	if (r || way.levels > 1 || way.level[0].count + 1 >= obd_dir_blocks(fs, dir))
		return r;
	dir->raw.i_flags &= ~(uint32_t)EXT2_INDEX_FL;
	return obd_inode_write(fs, dir);
}
