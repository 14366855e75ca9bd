# Replies that are made to do harm: small ones that would be large if they were
# decompressed, and headers without end.
#
# Only a hostile receiver can show that the worker neither decompresses nor
# collects what it is sent, and that it gives up before a time-out has to end it.

use strict;
use warnings;

use FindBin;
use lib "$FindBin::Bin/../lib";

use Chatwebhook;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;

my $receiver = start_receiver();
my $node = new_node(
	'main',
	'chatwebhook.log_attempts' => 'all',
	'chatwebhook.max_response_size' => '10kB');

# The most memory that the worker has ever used, in kB.
sub most_memory
{
	my $pid = sql('SELECT pid FROM chatwebhook.worker_status');
	my $status = "/proc/$pid/status";
	return undef if !-r $status;
	my ($kb) = slurp_file($status) =~ /^VmHWM:\s+(\d+)/m;
	return $kb;
}

# Send an event to webhooks with these paths, and wait for the outcomes.  None of
# them is a time-out.
sub send_to
{
	my (%paths) = @_;
	sql('DELETE FROM chatwebhook.webhook');
	create_webhook(
		$node,
		name => $_,
		path => $paths{$_},
		max_retries => 0,
		timeout => '5 minutes') foreach sort keys %paths;
	sql(q{SELECT chatwebhook.emit('message.sent', NULL, NULL,
			'{"role": "bot", "content": "hello"}')});
	ok(wait_idle($node), 'the worker is done');
	return;
}

# What is known of a webhook's only delivery.
sub outcome
{
	my ($name) = @_;
	return sql("SELECT status, last_status_code, last_error FROM chatwebhook.delivery
		WHERE webhook_name = '$name'");
}

sub attempt
{
	my ($name, $expression) = @_;
	return sql("SELECT $expression FROM chatwebhook.attempt a
		JOIN chatwebhook.delivery d ON d.id = a.delivery_id WHERE d.webhook_name = '$name'");
}

wait_until('SELECT count(*) = 1 FROM chatwebhook.worker_status')
  or die 'there is no worker';

subtest 'compressed replies' => sub {
	my %encodings = map { $_ => "/gzip/100000?encoding=$_" }
	  qw(gzip x-gzip deflate br zstd compress identity nonsense);
	send_to(%encodings);
	foreach my $name (sort keys %encodings)
	{
		is(outcome($name), 'delivered|200|', "$name: the status decides");
		is(attempt($name, "a.response_headers->>'content-encoding'"),
			$name, "$name: the header says what it was");
		is( attempt($name, "length(a.response_body) BETWEEN 20 AND 1000
				AND a.response_body LIKE chr(31) || '?%'"),
			't', "$name: the body is kept as it came, as text");
	}
	my ($request) = $receiver->log('gzip');
	is($request->{headers}{'accept-encoding'}, undef, 'nobody had asked for it');

	# fifty megabytes, which are fifty kilobytes here
	my $before = most_memory();
	send_to('bomb' => '/gzip/50000000');
	is(outcome('bomb'), 'delivered|200|', 'one that would be large is delivered');
	is(attempt('bomb', 'octet_length(a.response_body)'), 10240, 'and cut as any other');
	SKIP:
	{
		skip 'how much memory the worker uses is not known here', 1 if !defined $before;
		cmp_ok(most_memory() - $before, '<', 20_000, 'it does not unfold in memory');
	}
};

subtest 'headers without end' => sub {
	my $too_large = "the reply's headers are too large";
	my %expected = (
		'a long one' => [ '/long-header/20000', 'delivered|200|' ],
		'a longer one' => [ '/long-header/40000', "dead|200|$too_large" ],
		'one beyond libcurl' => [ '/long-header/300000', "dead|200|$too_large" ],
		'a huge one' => [ '/long-header/20000000', "dead|200|$too_large" ],
		'a NUL' => [ '/nul-header', 'dead|200|the reply is not HTTP' ],
		'interim replies' => [ '/interim/20', 'delivered|200|' ],
		'endless interim replies' => [ '/interim/0', "dead|103|$too_large" ],
		'endless trailers' => [ '/trailers', "dead|200|$too_large" ]);
	my $before = most_memory();
	send_to(map { $_ => $expected{$_}[0] } keys %expected);
	is(outcome($_), $expected{$_}[1], $_) foreach sort keys %expected;
	is(attempt('interim replies', "a.response_headers ? 'link'"),
		'f', 'only the last reply\'s headers are kept');
	is(attempt('a long one', "length(a.response_headers->>'x-long')"), 20_000, 'and those whole');
	SKIP:
	{
		skip 'how much memory the worker uses is not known here', 1 if !defined $before;
		cmp_ok(most_memory() - $before, '<', 20_000, 'they do not pile up in memory');
	}
};

is(sql(q{SELECT coalesce(last_error, '') FROM chatwebhook.worker_status}),
	'', 'the worker has had no trouble of its own');
unlike(slurp_file($node->logfile), qr/PANIC|TRAP|terminated by signal/,
	'no process has crashed');

$node->stop;
done_testing();
