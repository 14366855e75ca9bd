# TLS sessions: new connections to a host resume the session of an earlier one.
#
# Only handshakes with many hosts can show that a session is found again although
# others were made since, and only those of several owners that none of them resumes
# another's.

use strict;
use warnings;

use FindBin;
use lib "$FindBin::Bin/../lib";

use Chatwebhook;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;

if (system('openssl version >/dev/null 2>&1') != 0)
{
	plan skip_all => 'the openssl command is not there to make certificates';
}

# libcurl takes names below "localhost" for the loopback address
my $hosts = 150;
my @names = map { "h$_.localhost" } 1 .. $hosts;
my $receiver = start_receiver(tls => 1, names => \@names);
my $port = $receiver->port;
my $node = new_node('main', 'chatwebhook.ca_file' => $receiver->ca_file);

# Emit an event that all webhooks want, and wait until they have it.
my $rounds = 0;
sub one_round
{
	my ($webhooks) = @_;
	$rounds++;
	sql(q{SELECT chatwebhook.emit('message.sent', NULL, NULL, '{"role": "bot", "content": ""}')});
	ok($receiver->wait_for($rounds * $webhooks), "round $rounds: every host has its request")
	  or die 'nothing to look at';
	ok(wait_idle($node), 'idle');
	return;
}

# How many of the last requests came over a connection that resumed a session.
sub resumed
{
	my ($last) = @_;
	return scalar grep { $_->{resumed} } ($receiver->log)[ -$last .. -1 ];
}

#
# Many hosts, which close each connection
#
create_webhook($node, name => $_, url => "https://$_:$port/close/-/$_", events => ['message.sent'])
  foreach @names;
one_round($hosts);
is(resumed($hosts), 0, 'a first connection resumes nothing');
is(scalar(grep { !defined $_->{resumed} } $receiver->log), 0, 'all of them have TLS');
one_round($hosts);
one_round($hosts);
cmp_ok(resumed(2 * $hosts), '>=', 0.9 * 2 * $hosts, 'later ones resume: ' . resumed(2 * $hosts) . ' of ' . 2 * $hosts);

#
# Many hosts, which close each connection while it is idle
#
sql('DELETE FROM chatwebhook.webhook');
create_webhook($node, name => $_, url => "https://$_:$port/stale/-/$_", events => ['message.sent'])
  foreach @names;
# more often than libcurl up to 8.16 repeats requests with one handle
one_round($hosts) foreach 1 .. 8;
is(sql('SELECT max(attempts) FROM chatwebhook.history'), 1, 'each is delivered at the first attempt');
cmp_ok(resumed(7 * $hosts), '>=', 0.9 * 7 * $hosts, 'new ones resume: ' . resumed(7 * $hosts) . ' of ' . 7 * $hosts);

#
# One host of several owners
#
sql('DELETE FROM chatwebhook.webhook');
foreach my $chatbot ('alice', 'bob')
{
	create_webhook($node, name => $chatbot, chatbot_id => $chatbot, max_in_flight => 1,
		url => "https://localhost:$port/close/-/$chatbot", events => ['message.sent']);
}
foreach my $n (1 .. 2)
{
	foreach my $chatbot ('alice', 'bob')
	{
		sql(qq{SELECT chatwebhook.emit('message.sent', '$chatbot', NULL, '{"role": "bot", "content": ""}')});
		ok($receiver->wait_for($n, $chatbot), "$chatbot has request $n");
		ok(wait_idle($node), 'idle');
	}
}
foreach my $chatbot ('alice', 'bob')
{
	my ($first, $second) = $receiver->log($chatbot);
	ok(!$first->{resumed}, "$chatbot resumes no session of another's");
	ok($second->{resumed}, 'but its own');
}

$node->stop;
done_testing();
