/* Warm calls on files, for bench/files: nanoseconds each. The paths are those of a list. */
#define _GNU_SOURCE
#include <dirent.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

static char *paths[20000];
static char buffer[8192];
static int count;

static double now(void) {
  struct timespec t;
  clock_gettime(CLOCK_MONOTONIC, &t);
  return t.tv_sec * 1e9 + t.tv_nsec;
}

static void stats(void) {
  struct stat st;
  for (int i = 0; i < count; ++i)
    if (stat(paths[i], &st) != 0) exit(1);
}

static void missing(void) {
  struct stat st;
  char name[600];
  for (int i = 0; i < count; ++i) {
    snprintf(name, sizeof name, "%s.no", paths[i]);
    if (stat(name, &st) == 0) exit(1);
  }
}

static void reads(void) {
  for (int i = 0; i < count; ++i) {
    int fd = open(paths[i], O_RDONLY);
    if (fd < 0 || read(fd, buffer, sizeof buffer) <= 0) exit(1);
    close(fd);
  }
}

static void measure(const char *name, void (*what)(void), int rounds) {
  double least = 1e18;
  for (int i = 0; i < rounds; ++i) {
    double begun = now();
    what();
    double took = (now() - begun) / count;
    if (took < least) least = took;
  }
  printf("%s\t%.0f\n", name, least);
}

int main(int argc, char **argv) {
  char line[512];
  FILE *list = fopen(argv[1], "r");
  while (argc > 2 && list != NULL && count < 20000 && fgets(line, sizeof line, list) != NULL) {
    line[strcspn(line, "\n")] = 0;
    if (asprintf(&paths[count++], "%s/%s", argv[2], line) < 0) return 1;
  }
  if (count == 0) return 1;
  int rounds = argc > 3 ? atoi(argv[3]) : 7;
  measure("open+read+close, first", reads, 1);
  measure("stat", stats, rounds);
  measure("stat of nothing", missing, rounds);
  measure("open+read+close", reads, rounds);
  return 0;
}
