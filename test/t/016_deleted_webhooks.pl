# A worker forgets a webhook that was deleted.
#
# Only the worker's own account of its memory can show this: what it keeps of the
# deleted webhooks is freed, and what it keeps of the others is not.

use strict;
use warnings;

use FindBin;
use lib "$FindBin::Bin/../lib";

use Chatwebhook;
use PostgreSQL::Test::Utils;
use Test::More;

my $n = 30;
my $receiver = start_receiver();
# a worker forgets webhooks when it sweeps
my $node = new_node('main', 'chatwebhook.poll_interval' => '100ms');

# How many webhooks the worker holds in its memory.
sub held
{
	my ($pid) = @_;
	my $offset = -s $node->logfile;

	sql("SELECT pg_log_backend_memory_contexts($pid)");
	$node->wait_for_log(qr/Grand total/, $offset);
	return scalar(() = slurp_file($node->logfile, $offset) =~ /chatwebhook webhook: /g);
}

create_webhook($node, name => "w$_", chatbot_id => 'bot') foreach 1 .. $n;
my $emit = "SELECT chatwebhook.emit('webhook.test', 'bot', NULL, '{}')";
sql($emit);
ok(wait_idle($node), 'each webhook has been sent to');
my $pid = sql('SELECT pid FROM chatwebhook.worker_status');
is(held($pid), $n, 'the worker knows them all');

sql("DELETE FROM chatwebhook.webhook WHERE name <> 'w1'");
my $deadline = time + $PostgreSQL::Test::Utils::timeout_default;
my $held;
do { $held = held($pid) } until $held <= 1 || time > $deadline;
is($held, 1, 'and forgets those that were deleted, but not the other');

sql($emit);
ok(wait_idle($node), 'which is sent to as before');
is($receiver->count('w1'), 2, 'both times');
is(sql('SELECT pid FROM chatwebhook.worker_status'), $pid, 'by the same worker');

$node->stop;
done_testing();
