# A worker forgets a webhook that was deleted, and cancels what is owed to it.
#
# Only the worker's own account of its memory can show the former: what it keeps of
# the deleted webhooks is freed, whether they were enabled or disabled, and what it
# keeps of the others is not. Only deliveries without a webhook can show the latter:
# they are canceled if it was deleted, and wait for it if a restore has yet to bring
# it.

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

# Wait until it holds no more than that many, and check that it holds no fewer.
sub is_held
{
	my ($pid, $wanted) = @_;
	my $deadline = time + $PostgreSQL::Test::Utils::timeout_default;
	my $held;

	do { $held = held($pid) } until $held <= $wanted || time > $deadline;
	return $held == $wanted;
}

create_webhook($node, name => "w$_", chatbot_id => 'bot') foreach 1 .. $n;
my $emit = "SELECT chatwebhook.emit('webhook.test', 'bot', NULL, '{}')";
sql($emit);
ok(wait_idle($node), 'each webhook has been sent to');
my $pid = sql('SELECT pid FROM chatwebhook.worker_status');
is(held($pid), $n, 'the worker knows them all');

sql("DELETE FROM chatwebhook.webhook WHERE name <> 'w1'");
ok(is_held($pid, 1), 'and forgets those that were deleted, but not the other');

sql($emit);
ok(wait_idle($node), 'which is sent to as before');
is($receiver->count('w1'), 2, 'both times');
is(sql('SELECT pid FROM chatwebhook.worker_status'), $pid, 'by the same worker');

# one that a worker has disabled before it is deleted; an event for it is committed
# after that
create_webhook($node, name => 'gone', chatbot_id => 'gone', path => '/gone');
my $emit_gone = "SELECT chatwebhook.emit('webhook.test', 'gone', NULL, '{}')";
my $late = $node->background_psql('postgres');
$late->query_safe('BEGIN');
$late->query_safe($emit_gone);
sql($emit_gone);
becomes_true("SELECT NOT enabled FROM chatwebhook.webhook WHERE name = 'gone'", 'a webhook is disabled');
sql($emit);
ok(wait_idle($node), 'another is sent to');
is(held($pid), 2, 'the worker knows both');
sql("DELETE FROM chatwebhook.webhook WHERE name = 'gone'");
$late->query_safe('COMMIT');
$late->quit;
becomes_true("SELECT count(*) = 1 FROM chatwebhook.history
	WHERE chatbot_id = 'gone' AND status = 'canceled' AND last_error = 'the webhook was deleted'",
	'what was emitted for the deleted one is canceled');
ok(is_held($pid, 1), 'and the worker forgets it');

# an event that is committed after the deletion, which has not seen its delivery
my $session = $node->background_psql('postgres');
$session->query_safe('BEGIN');
$session->query_safe($emit);
sql('DELETE FROM chatwebhook.webhook');
is(sql('SELECT count(*) FROM chatwebhook.deleted_webhook'), $n + 1, 'the deletions are noted');
$session->query_safe('COMMIT');
$session->quit;
becomes_true("SELECT count(*) = 1 FROM chatwebhook.history
	WHERE chatbot_id = 'bot' AND status = 'canceled' AND last_error = 'the webhook was deleted'", 'what was emitted meanwhile is canceled');

my $id = 'a0000000-0000-4000-8000-000000000001';

# Restores the webhook as a dump does: with its health, its secret, and the setting
# that tells a restore from a session that takes over a deleted webhook's id.
sub restore
{
	my ($name) = @_;
	my $url = $receiver->url("/ok/-/$name");

	script("
		BEGIN;
		SET check_function_bodies = off;
		INSERT INTO chatwebhook.webhook (id, name, url) VALUES ('$id', '$name', '$url');
		INSERT INTO chatwebhook.health (webhook_id) VALUES ('$id');
		SELECT chatwebhook._follow_signing('$id', signing)
		FROM chatwebhook.webhook WHERE id = '$id';
		COMMIT");
	return;
}

# what a restore has brought so far: a delivery, and its event, but no webhook
script("
	BEGIN;
	INSERT INTO chatwebhook.event (id, type, created_at, first_delivery, last_delivery, data)
	VALUES ('$id', 'webhook.test', now(), 1, 1, '{}');
	INSERT INTO chatwebhook.queue (id, webhook_id, event_id, created_at, next_attempt_at)
	VALUES (1, '$id', '$id', now(), now());
	SELECT chatwebhook._wake('$id');
	COMMIT");
create_webhook($node, name => 'witness', chatbot_id => 'bot');
sql($emit);
ok($receiver->wait_for(1, 'witness'), 'another is delivered');
is(sql('SELECT count(*) FROM chatwebhook.queue WHERE id = 1'), 1, 'what has no webhook waits for it');
restore('restored');
ok($receiver->wait_for(1, 'restored'), 'and is delivered when it is there');
ok(wait_idle($node), 'nothing is left');
sql("DELETE FROM chatwebhook.webhook WHERE id = '$id'");
restore('again');
is(sql("SELECT count(*) FROM chatwebhook.deleted_webhook WHERE id = '$id'"), 0,
	'a webhook that is there again was not deleted');

$node->stop;
done_testing();
