
=head1 NAME

Clock - a server whose clock the test sets

=head1 SYNOPSIS

  use Clock qw(jump with_clock);
  plan skip_all => Clock::problem() if Clock::problem();
  my $node = with_clock(sub { return new_node('main') });
  jump(-3600);

=head1 DESCRIPTION

A library in LD_PRELOAD shifts the time of day that a server is told, but not the
monotonic clock, as when an administrator sets the clock or a machine wakes up
with a wrong one.  The shift is in a file that all processes of the server map.

=cut

package Clock;

use strict;
use warnings;

use Exporter qw(import);
use PostgreSQL::Test::Utils;

our @EXPORT_OK = qw(jump with_clock);

my ($built, $library, $offset_file);
my $offset = 0;

my $source = <<'SOURCE';
#define _GNU_SOURCE
#include <dlfcn.h>
#include <fcntl.h>
#include <stdint.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/time.h>
#include <time.h>
#include <unistd.h>

static volatile int64_t none = 0;
static volatile int64_t *offset = &none;	/* seconds, the same for everybody */

__attribute__((constructor)) static void
map_offset(void)
{
	int			fd = open(getenv("CLOCK_OFFSET_FILE"), O_RDONLY);
	void	   *map = mmap(NULL, sizeof(int64_t), PROT_READ, MAP_SHARED, fd, 0);

	if (map == MAP_FAILED)
		abort();
	offset = map;
	close(fd);
}

int
clock_gettime(clockid_t clock, struct timespec *at)
{
	static int	(*real) (clockid_t, struct timespec *);
	int			result;

	if (!real)
		real = (int (*) (clockid_t, struct timespec *)) dlsym(RTLD_NEXT, "clock_gettime");
	result = real(clock, at);
	if (clock == CLOCK_REALTIME || clock == CLOCK_REALTIME_COARSE)
		at->tv_sec += *offset;
	return result;
}

int
gettimeofday(struct timeval *restrict at, void *restrict zone)
{
	struct timespec now;

	(void) zone;
	clock_gettime(CLOCK_REALTIME, &now);
	at->tv_sec = now.tv_sec;
	at->tv_usec = now.tv_nsec / 1000;
	return 0;
}

time_t
time(time_t *at)
{
	struct timespec now;

	clock_gettime(CLOCK_REALTIME_COARSE, &now);
	if (at)
		*at = now.tv_sec;
	return now.tv_sec;
}
SOURCE

=head1 FUNCTIONS

=over

=item problem()

Why there can be no such server here, or nothing.

=item with_clock($what)

Runs a sub with the clock in the environment of what it starts, a server, and
returns what that returns.

=item jump($seconds)

Sets the clock so many seconds on, or back.

=back

=cut

sub problem
{
	my $compiler = $ENV{CC} // 'cc';

	if (!defined $built)
	{
		my $directory = PostgreSQL::Test::Utils::tempdir('clock');
		$library = "$directory/clock.so";
		$offset_file = "$directory/offset";
		PostgreSQL::Test::Utils::append_to_file("$directory/clock.c", $source);
		PostgreSQL::Test::Utils::append_to_file($offset_file, "\0" x 8);
		$built = system("$compiler -shared -fPIC -O1 -o '$library' '$directory/clock.c' -ldl"
			  . " 2>'$directory/errors'") == 0;
	}
	return $built ? undef : "there is no C compiler to build the clock with ($compiler)";
}

sub with_clock
{
	my ($what) = @_;
	die problem() . "\n" if problem();
	local $ENV{LD_PRELOAD} = $library;
	local $ENV{CLOCK_OFFSET_FILE} = $offset_file;
	return $what->();
}

# The file is written in place: truncated for a moment, it would make a read of
# the map a fault.
sub jump
{
	my ($by) = @_;
	$offset += $by;
	open my $file, '+<:raw', $offset_file or die "$offset_file: $!";
	syswrite $file, pack('q', $offset);
	close $file;
	return;
}

1;
