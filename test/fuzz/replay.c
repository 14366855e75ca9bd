/*
 * replay.c
 *		Runs a fuzz target without a fuzzer: its corpus, and changes of it.
 *
 *		cc -g -O1 -fsanitize=address,undefined -Isrc \
 *			test/fuzz/fuzz_json.c test/fuzz/replay.c -o replay_json
 *		./replay_json SECONDS SEED test/fuzz/corpus/json
 *
 * libFuzzer, which looks for new paths, needs clang; this needs any compiler,
 * so that the tests of every day can hold the targets to their properties.
 * It prints TAP.
 *
 * Copyright (c) 2026, chatwebhook contributors
 */
#include <dirent.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#define MAX_SIZE	4096
#define MAX_INPUTS	256

extern int	LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static struct
{
	uint8_t		data[MAX_SIZE];
	size_t		size;
}			inputs[MAX_INPUTS];
static int	ninputs = 0;

/* Read the files of a folder. */
static void
read_corpus(const char *path)
{
	DIR		   *dir = opendir(path);
	struct dirent *entry;

	if (dir == NULL)
	{
		perror(path);
		exit(2);
	}
	while ((entry = readdir(dir)) != NULL && ninputs < MAX_INPUTS)
	{
		char		name[4096];
		FILE	   *file;

		if (entry->d_name[0] == '.')
			continue;
		snprintf(name, sizeof(name), "%s/%s", path, entry->d_name);
		if ((file = fopen(name, "rb")) == NULL)
			continue;
		inputs[ninputs].size = fread(inputs[ninputs].data, 1, MAX_SIZE, file);
		ninputs++;
		fclose(file);
	}
	closedir(dir);
}

/* Give the target a copy of just that size, so that a read beyond it is seen. */
static void
run(const uint8_t *data, size_t size)
{
	uint8_t    *copy = malloc(size ? size : 1);

	memcpy(copy, data, size);
	LLVMFuzzerTestOneInput(copy, size);
	free(copy);
}

/* Change an input a little, or splice it with another. */
static size_t
change(uint8_t *data, size_t size)
{
	for (int n = 1 + rand() % 4; n > 0; n--)
	{
		size_t		at = size ? (size_t) rand() % size : 0;

		switch (rand() % 5)
		{
			case 0:				/* another byte */
				if (size)
					data[at] = (uint8_t) rand();
				break;
			case 1:				/* another bit */
				if (size)
					data[at] ^= (uint8_t) (1 << rand() % 8);
				break;
			case 2:				/* one byte more */
				if (size < MAX_SIZE)
				{
					memmove(data + at + 1, data + at, size - at);
					data[at] = (uint8_t) rand();
					size++;
				}
				break;
			case 3:				/* the end cut off */
				size = at;
				break;
			default:			/* the end of another */
				{
					int			other = rand() % ninputs;
					size_t		from = inputs[other].size ?
						(size_t) rand() % inputs[other].size : 0;
					size_t		len = inputs[other].size - from;

					if (len > MAX_SIZE - at)
						len = MAX_SIZE - at;
					memcpy(data + at, inputs[other].data + from, len);
					size = at + len;
				}
				break;
		}
	}
	return size;
}

int
main(int argc, char **argv)
{
	uint8_t		data[MAX_SIZE];
	time_t		end;
	long		runs = 0;

	if (argc != 4)
	{
		fprintf(stderr, "usage: %s SECONDS SEED CORPUS\n", argv[0]);
		return 2;
	}
	read_corpus(argv[3]);
	srand((unsigned) atoi(argv[2]));
	printf("# seed %s\n", argv[2]);
	for (int i = 0; i < ninputs; i++)
		run(inputs[i].data, inputs[i].size);
	printf("%s 1 - the corpus of %d inputs\n", ninputs ? "ok" : "not ok", ninputs);
	end = time(NULL) + atoi(argv[1]);
	while (ninputs && time(NULL) < end)
	{
		for (int i = 0; i < 1000; i++, runs++)
		{
			int			which = rand() % ninputs;

			memcpy(data, inputs[which].data, inputs[which].size);
			run(data, change(data, inputs[which].size));
		}
	}
	/* what does not hold has ended the process before this */
	printf("ok 2 - %ld changed inputs\n1..2\n", runs);
	return ninputs ? 0 : 1;
}
