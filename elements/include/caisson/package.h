/* A package: a directory tree in one file, for the element "files" (docs/elements.md).
 *
 *   header | contents, a chunk after another | index
 *
 * The index has the entries (folder by folder, the root first, the children of one folder
 * together and by name), the chunks, a hash table from (folder, name) to the entry, and the
 * names. With CAISSON_PACKAGE_ENCRYPTED each chunk, and the index, is XChaCha20-Poly1305
 * (libsodium's crypto_aead_xchacha20poly1305_ietf): the nonce is the salt and the number of
 * the chunk, for the index CAISSON_PACKAGE_INDEX_NONCE; the index vouches for the header too.
 *
 * All numbers are little-endian. Whoever reads trusts none of them: elements/files/package.cc. */
#ifndef CAISSON_PACKAGE_H
#define CAISSON_PACKAGE_H

#include <stdint.h>

#define CAISSON_PACKAGE_MAGIC "caissonf"
#define CAISSON_PACKAGE_VERSION 1u
#define CAISSON_PACKAGE_ZSTD 1u      /* chunks are frames, but for those that are as large as what they hold */
#define CAISSON_PACKAGE_ENCRYPTED 2u /* chunks and index */
#define CAISSON_PACKAGE_KEY 32
#define CAISSON_PACKAGE_TAG 16 /* bytes that encryption adds */
#define CAISSON_PACKAGE_INDEX_NONCE UINT64_MAX
#define CAISSON_PACKAGE_MOST_ENTRIES (1u << 24)
#define CAISSON_PACKAGE_LEAST_CHUNK (4u << 10)
#define CAISSON_PACKAGE_MOST_CHUNK (1u << 20)

struct caisson_package_header {
  char magic[8];
  uint32_t version, flags;
  uint64_t size;                     /* of the file */
  uint64_t index_offset, index_size; /* as stored */
  uint32_t entries, chunks, slots;   /* slots: a power of two */
  uint32_t names;                    /* bytes */
  uint32_t chunk_size;               /* bytes of content in a chunk; the last of a file may have fewer */
  uint32_t index_crc;                /* crc32c of the index; 0 where it is encrypted */
  uint8_t salt[16];
  uint8_t reserved[44];
  uint32_t header_crc; /* crc32c of what is before */
};

struct caisson_package_entry {
  uint32_t parent; /* the root is its own */
  uint32_t name;   /* where it begins among the names */
  uint16_t name_size;
  uint16_t mode; /* as stat(2): regular files, folders and symbolic links */
  uint32_t uid, gid;
  uint32_t link;  /* the first of the entries that are one file: itself, mostly */
  uint32_t links; /* how many they are */
  uint32_t mtime_nanoseconds;
  int64_t mtime;
  uint64_t size;  /* of the content, or of the target */
  uint32_t first; /* folder: the first child; file: the first chunk; link: where its target begins among the names */
  uint32_t count; /* folder: children; file: chunks */
  uint32_t reserved[2];
};

struct caisson_package_chunk {
  uint64_t offset;
  uint32_t stored; /* bytes in the package */
  uint32_t crc;    /* crc32c of these */
};

#endif
