# HTTP/2: many requests on few connections, connections that end while requests are
# under way, and replies that come before a request was read.
#
# Only a server that speaks HTTP/2 can show this, and all of it is everyday
# business: nginx closes a connection after 1,000 requests, and a limit in front of
# a service answers without reading the body.  A delivery should hardly notice the
# former, and should record the status of the latter.

use strict;
use warnings;

use FindBin;
use lib "$FindBin::Bin/../lib";

use Chatwebhook;
use PostgreSQL::Test::Utils;
use Test::More;

foreach my $program ($ENV{NODE} // 'node', 'openssl')
{
	plan skip_all => "there is no $program" if system("command -v $program >/dev/null") != 0;
}
my $closing = start_receiver(program => 'http2.js', tls => 1, args => [ '--requests' => 100 ]);
my $receiver = start_receiver(program => 'http2.js', tls => 1);
my $trusted = PostgreSQL::Test::Utils::tempdir('trusted') . '/both.crt';
append_to_file($trusted, slurp_file($_->ca_file)) foreach $receiver, $closing;
chmod 0644, $trusted;
my $node = new_node(
	'main',
	'chatwebhook.max_in_flight' => 200,
	'chatwebhook.log_attempts' => 'all',
	'chatwebhook.breaker_threshold' => 0,
	'chatwebhook.ca_file' => $trusted);

# Emit n events of a chatbot, with a text of so many characters.
sub emit
{
	my ($chatbot, $n, $length) = @_;
	sql("SELECT count(chatwebhook.emit('message.sent', '$chatbot', 'c', jsonb_build_object('role', 'bot', 'content', repeat('x', $length))))
		FROM generate_series(1, $n)");
	ok(wait_idle($node), "$chatbot: the worker is done");
	return;
}

# How the attempts for a webhook have ended: lines of status, error and number.
sub outcomes
{
	my ($name) = @_;
	return sql("SELECT a.status_code, a.error, count(*) FROM chatwebhook.attempt a JOIN chatwebhook.webhook w ON w.id = a.webhook_id
		WHERE w.name = '$name' GROUP BY 1, 2 ORDER BY 1, 2");
}

# The connections on which requests of a label came.
sub connections
{
	my ($from, $label) = @_;
	my %connections = map { $_->{connection} => 1 } $from->log($label);
	return scalar keys %connections;
}

# What has not worked yet gets one request at a time.
create_webhook($node, name => 'burst', chatbot_id => 'burst', max_in_flight => 200);
emit('burst', 1, 10);
emit('burst', 1000, 10);
is(outcomes('burst'), '200||1001', 'a burst: each was delivered');
# the first is the customer's own, as long as nobody knows that the host speaks HTTP/2
cmp_ok(connections($receiver, 'burst'), '<=', 3, '... on one connection, or another');

# What is held back while requests are written is let go at once, and not by the
# kernel's timer of 200 ms, before which no request by itself would be answered.
# A slow machine may need several to have one that is.
my ($best, $deadline) = (200, time + $PostgreSQL::Test::Utils::timeout_default);
while ($best >= 200 && time < $deadline)
{
	emit('burst', 1, 10);
	$best = sql("SELECT a.latency_ms FROM chatwebhook.attempt a JOIN chatwebhook.webhook w ON w.id = a.webhook_id
		WHERE w.name = 'burst' ORDER BY a.started_at DESC LIMIT 1");
}
cmp_ok($best, '<', 200, "one request by itself is not held back: it took $best ms");

# The reply comes first, once after 64 of 300 kB: then libcurl waits to send more.
# 7.88 may still do so when the stream has ended, until the time is up.
foreach my $status (200, 429)
{
	create_webhook(
		$node,
		name => "early $status",
		path => "/early/$status/-/early-$status",
		chatbot_id => "early-$status",
		timeout => scaled(6) . ' s',
		max_retries => 0);
	emit("early-$status", 1, 300000);
	like(outcomes("early $status"), qr/^$status\|.*\|1$/, 'a large body was not read: the status of the reply is that of the attempt');
	emit("early-$status", 30, 10);
	my $error = $status == 200 ? '' : "HTTP status $status";
	like(outcomes("early $status"), qr/^$status\|$error\|3[01]$/m, '... as it is with small ones');
}

# There is none.
create_webhook($node, name => 'error', path => '/error', chatbot_id => 'error', max_retries => 0);
emit('error', 1, 10);
is(outcomes('error'), '|the server ended the HTTP/2 stream: INTERNAL_ERROR|1', 'a stream that ends with an error');

# A connection does not last.
create_webhook($node, receiver => $closing, name => 'closing', chatbot_id => 'closing', max_in_flight => 100);
emit('closing', 1, 10);
emit('closing', 1000, 10);
like(outcomes('closing'), qr/^200\|\|1001$/m, 'connections end after 100 requests: each was delivered');
# Node.js 18 cuts off replies, and so strikes some a fifth time.
my $failed = sql("SELECT count(*) FROM chatwebhook.attempt a JOIN chatwebhook.webhook w ON w.id = a.webhook_id
	WHERE w.name = 'closing' AND a.error IS NOT NULL");
cmp_ok($failed, '<=', 50, "... at the first attempt, or nearly: $failed failed");
my $connections = connections($closing, 'closing');
cmp_ok($connections, '>=', 5, '... on several connections');
cmp_ok($connections, '<=', 2 * 1001 / 100, "... but not many more than they had to be: $connections");
my %ids = map { $_->{headers}{'webhook-id'} => 1 } $closing->log('closing');
is(scalar keys %ids, 1001, '... and all of them have come');

done_testing();
