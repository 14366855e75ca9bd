# A long backlog of ordered deliveries costs little.
#
# All deliveries of a conversation wait behind its first, and a claim that looks
# for more to send reads all of them.  Only a backlog as long as this one is still
# being read when the next sweep is due; what that sweep finds is read afterwards,
# and another webhook is served meanwhile.

use strict;
use warnings;

use FindBin;
use lib "$FindBin::Bin/../lib";

use Chatwebhook;
use PostgreSQL::Test::Utils;
use Test::More;
use Time::HiRes qw(sleep time);

my $backlog = 60000;
my $conversations = 20;

my $receiver = start_receiver(args => ['--brief']);
my $node = new_node('main', 'chatwebhook.breaker_threshold' => 0, 'chatwebhook.poll_interval' => '100ms',
	max_prepared_transactions => 1);

# How many times a row that waits was looked at: each is a scan of this index.
sub looks
{
	return sql(q{SELECT idx_scan FROM pg_stat_all_indexes WHERE indexrelname = 'queue_order_idx'});
}

sql(q{INSERT INTO chatwebhook.event_type (name) VALUES ('test.backlog')});
create_webhook($node, name => 'waiting', chatbot_id => 'waiting', events => ['test.backlog'], ordered => 't',
	path => '/delay-ms/300');
create_webhook($node, name => 'beside', chatbot_id => 'beside', events => ['test.backlog']);
sql(qq{SELECT count(chatwebhook.emit('test.backlog', 'waiting', 'c' || i % $conversations, jsonb_build_object('n', i)))
	FROM generate_series(1, $backlog) i});
# due before what the worker reads next, and to be seen later
script(q{BEGIN; SELECT chatwebhook.emit('test.backlog', 'waiting', 'prepared', '{}'); PREPARE TRANSACTION 'prepared'});
# by then it may have more under way than it has conversations
ok($receiver->wait_for(200, 'waiting'), 'a few are sent, and all others wait');

# Not a wait: as many sweeps as this come due meanwhile.  The figures come in once
# a second or so.
my $from = looks();
my $start = time;
my $n = 0;
my $slow = 0;
while (time < $start + 8)
{
	my $sent = time;
	sql(q{SELECT chatwebhook.emit('test.backlog', 'beside', 'c', '{}')});
	$receiver->wait_for(++$n, 'beside') or last;
	$slow = time - $sent if time - $sent > $slow;
}
my $rounds = (looks() - $from) / $backlog;
diag(sprintf '%d beside, the slowest in %.2f s; the backlog was read %.1f times', $n, $slow, $rounds);
is($receiver->count('beside'), $n, 'another webhook is served meanwhile');
cmp_ok($rounds, '<', 4, 'what waits is not read again and again');

# No sweep comes by itself any more.
$node->append_conf('postgresql.conf', "chatwebhook.poll_interval = '10min'");
$node->reload;
sql(q{COMMIT PREPARED 'prepared'});
becomes_true(q{SELECT d.status = 'delivered' FROM chatwebhook.delivery d
	JOIN chatwebhook.event e ON e.id = d.event_id WHERE e.conversation_id = 'prepared'},
	'what a sweep found too early is read in time');

$node->stop;
done_testing();
