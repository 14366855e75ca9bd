# The first ten minutes, docs/getting-started.md.
#
# Only following the page can show that it leads where it says: every block is
# run in an empty directory, by a shell or by psql, and its output is what the page
# shows below it.
#
# UUIDs, secrets and the receiver's port are normalized.  A block whose last
# statement is a query, and that changes nothing, is run again until it gives the
# output shown; what the page calls "a moment later" takes as long as it takes.

use strict;
use warnings;

use FindBin;
use IO::Socket::INET;
use IPC::Run;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;
use Time::HiRes qw(sleep time);

my $page = slurp_file("$FindBin::Bin/../../docs/getting-started.md");
# short, since it holds a socket
my $directory = PostgreSQL::Test::Utils::tempdir_short();
my $port = PostgreSQL::Test::Cluster::get_free_port();
my $timeout = $PostgreSQL::Test::Utils::timeout_default;

# Run a script in the directory, with the environment that the last one left.
sub run_shell
{
	my ($script) = @_;
	my $output = '';

	IPC::Run::run(
		[
			'bash', '-c',
			'cd "$1" && { [ ! -e .env ] || . ./.env; } && eval "$2"; declare -px >.env',
			'bash', $directory, "set -e\n$script"
		],
		'<' => \'',
		'>' => \$output,
		'2>&1');
	return $output;
}

# The same for SQL, as psql shows it.
sub run_psql
{
	my ($sql) = @_;
	$sql =~ s/'/'\\''/g;
	return run_shell("psql -X -v ON_ERROR_STOP=1 <<<'$sql'");
}

# Replace what cannot be the same twice by as many other characters.
sub normalised
{
	my ($text) = @_;
	my $hex = '[0-9a-f]';

	$text =~ s/\b$hex{8}(?:-$hex{4}){3}-$hex{12}\b/'u' x 36/ge;
	$text =~ s{whsec_[A-Za-z0-9+/]{43}=}{'s' x 50}ge;
	$text =~ s/[ \t]+$//mg;
	return $text =~ s/\s+\z//r;
}

# Nothing of the surroundings is to reach the page's own server.
delete @ENV{ grep { /^PG/ } keys %ENV };

my $blocks = 0;
while ($page =~ /^```(sh|sql)\n(.*?)^```\n(?:```\n(.*?)^```\n)?/msg)
{
	my ($language, $text, $shown) = ($1, $2, normalised($3 // ''));
	my ($title) = $text =~ /^(.{1,60})/;
	my $run = $language eq 'sh' ? \&run_shell : \&run_psql;
	my $again = $text =~ /\A(?:SELECT|cat) (?!.*test_webhook|.*create_webhook|.*retry_dead)/s;
	my $deadline = time + $timeout;
	my $output;

	$blocks++;
	$text =~ s/\b8099\b/$port/g;
	while (1)
	{
		$output = normalised($run->($text));
		last if $output eq $shown || !$again || time > $deadline;
		sleep 0.1;
	}
	is($output, $shown, "block $blocks: $title") or last;

	# The receiver listens as soon as Python has started.
	last
	  if $text =~ /receiver\.pid$/m && $text =~ /^python3/m && !ok(
		listens(), 'the receiver listens');
}
cmp_ok($blocks, '>=', 15, 'there are blocks');
is($blocks, scalar(() = $page =~ /^```(?:sh|sql)$/mg), 'all of them were run');
ok(!-e "$directory/data/postmaster.pid", 'nothing is left running');

sub listens
{
	my $deadline = time + $timeout;

	until (IO::Socket::INET->new(PeerAddr => '127.0.0.1', PeerPort => $port))
	{
		return 0 if time > $deadline;
		sleep 0.05;
	}
	return 1;
}

# However the page ended, what it started does.
END
{
	my $exit_code = $?;

	if (defined $directory)
	{
		foreach my $file ('receiver.pid', 'data/postmaster.pid')
		{
			next if !-e "$directory/$file";
			my ($pid) = slurp_file("$directory/$file") =~ /\A(\d+)/;
			next if !$pid || (readlink("/proc/$pid/cwd") // '') !~ /^\Q$directory\E/;
			kill $file =~ /postmaster/ ? 'QUIT' : 'TERM', $pid;
			sleep 0.1 while kill 0, $pid;
		}
	}
	$? = $exit_code;
}

done_testing();
