# What a worker has delivered leaves nothing in its memory.
#
# Only a worker that delivers, and its own account of what it holds, can show
# that large events, batches, the replies that a connector is given, and errors
# are all let go of.  Without that it would deliver as well, for some days.

use strict;
use warnings;

use FindBin;
use lib "$FindBin::Bin/../lib";

use Chatwebhook;
use PostgreSQL::Test::Utils;
use Test::More;

# By so much may its memory differ from one time to another, as caches do.  It
# would be more if each delivery left no more than a short string.
my $palloc_tolerance = 32 * 1024;
my $anonymous_tolerance = 4 * 1024 * 1024;

my $receiver = start_receiver();
my $node = new_node(
	'main',
	'autovacuum' => 'off',
	'chatwebhook.breaker_threshold' => 0,
	'chatwebhook.log_attempts' => 'all');

# Three requests, of which the receiver's answers to the first two are kept.
script(q{
	CREATE FUNCTION three(event jsonb, webhook jsonb, replies jsonb) RETURNS chatwebhook.request
		LANGUAGE sql IMMUTABLE AS $$
		SELECT ROW('POST', webhook->>'url', NULL, event, jsonb_array_length(replies) = 2)::chatwebhook.request
	$$;
	INSERT INTO chatwebhook.connector (name, function) VALUES ('three', 'public.three(jsonb,jsonb,jsonb)');
	INSERT INTO chatwebhook.event_type (name) VALUES ('test.memory')});

my %webhooks = (
	large => { path => '/big/16000' },
	batches => { batch_size => 10 },
	# a retry meets others in its batch, which the receiver then refuses as a new one
	'batches again' => { batch_size => 10, path => '/flaky/1', backoff => '10 ms', max_retries => 100 },
	steps => { path => '/big/8000', connector => 'three' },
	failing => { path => '/status/400' },
	cut => { path => '/reset-mid-body', max_retries => 1, backoff => '10 ms' });
create_webhook($node, name => $_, chatbot_id => $_, events => ['test.memory'], %{ $webhooks{$_} })
  foreach sort keys %webhooks;

my $each = 0;

# Events of 10 kB, so many for each webhook.
sub round
{
	my ($n) = @_;
	sql(qq{SELECT chatwebhook.emit('test.memory', w.chatbot_id, 'c' || i,
			jsonb_build_object('n', i, 'text', repeat('x', 10000)))
		FROM generate_series(1, $n) i, chatwebhook.webhook w});
	$each += $n;
	wait_idle($node) or die "the worker is not done\n";
	return;
}

# What the worker holds, in bytes: what PostgreSQL knows of, and all that is its own.
sub weigh
{
	my ($pid) = @_;
	my $offset = -s $node->logfile;

	sql("SELECT pg_log_backend_memory_contexts($pid)");
	$node->wait_for_log(qr/Grand total: .* used/, $offset);
	my ($palloc) = slurp_file($node->logfile, $offset) =~ /Grand total: .*?(\d+) used/;
	my ($kb) = slurp_file("/proc/$pid/status") =~ /^RssAnon:\s+(\d+)/m;
	note("after $each events for each webhook: $palloc bytes allocated, $kb kB");
	return ($palloc, $kb * 1024);
}

# It keeps what held a delivery for the next one, and so has to hold many at
# once; and it makes plans anew for some time.
round(100);
round(20) foreach 1 .. 10;
my $pid = sql('SELECT pid FROM chatwebhook.worker_status');
my ($palloc, $anonymous) = weigh($pid);
round(20) foreach 1 .. 20;
my ($palloc_then, $anonymous_then) = weigh($pid);
cmp_ok($palloc_then - $palloc, '<', $palloc_tolerance, 'of 2,400 deliveries nothing is left');
cmp_ok($anonymous_then - $anonymous, '<', $anonymous_tolerance, 'nor of what is not PostgreSQL\'s');

is(sql(q{SELECT webhook_name, status, count(*) FROM chatwebhook.delivery GROUP BY 1, 2 ORDER BY 1}),
	join("\n", map { "$_|" . (/failing|cut/ ? 'dead' : 'delivered') . "|$each" } sort keys %webhooks),
	'each has come to the end that it was to have');
is(sql('SELECT pid, last_error IS NULL FROM chatwebhook.worker_status'), "$pid|t", 'by the same worker');

$node->stop;
done_testing();
