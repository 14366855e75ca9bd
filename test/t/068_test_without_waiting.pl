# test_webhook(wait => false): a test that is a delivery like any other.
#
# Only a receiver that does not answer can show that the caller does not wait for
# it, and only a worker what becomes of such a test: that it is sent after the
# commit, seen by those who see its webhook, counted, and not sent late.

use strict;
use warnings;

use FindBin;
use lib "$FindBin::Bin/../lib";

use Chatwebhook;
use PostgreSQL::Test::Utils;
use Session;
use Test::More;

my $receiver = start_receiver();
my $node = new_node('main', 'chatwebhook.breaker_threshold' => 3);

# What a call returns: all of its columns.
sub call
{
	my ($id) = @_;
	return sql("SELECT * FROM chatwebhook.test_webhook('$id', wait => false)");
}

sub error_of
{
	my ($id) = @_;
	return ($node->psql('postgres', "SELECT chatwebhook.test_webhook('$id', wait => false)"))[2];
}

subtest 'its outcome' => sub {
	my ($ok) = create_webhook($node, name => 'ok', events => ['lead.captured'], filter => '$.data.no == 1', debounce => '1 hour');
	my $delivery = call($ok) =~ s/^\|+//r;
	like($delivery, qr/^\d+$/, 'it returns the id of the delivery, and nothing else');
	becomes_true("SELECT status = 'delivered' FROM chatwebhook.delivery WHERE id = $delivery", 'which is delivered');
	is(sql("SELECT event_type, webhook_name, attempts, last_status_code, latency_ms >= 0, chatbot_id IS NULL FROM chatwebhook.delivery WHERE id = $delivery"),
		'webhook.test|ok|1|200|t|t', 'as its row says');
	my ($request) = $receiver->log('ok');
	is($request->{headers}{'x-webhook-delivery'}, $delivery, 'the receiver got it');
	ok($request->{verified}{standard}, 'signed');
	is(sql("SELECT successes FROM chatwebhook.webhook_health WHERE webhook_id = '$ok'"), 1, 'it counts');

	my ($fails) = create_webhook($node, name => 'fails', path => '/status/404', max_retries => 0);
	$delivery = call($fails) =~ s/^\|+//r;
	becomes_true("SELECT status = 'dead' FROM chatwebhook.delivery WHERE id = $delivery", 'one is refused');
	is(sql("SELECT status_code, error, response_body FROM chatwebhook.attempt WHERE delivery_id = $delivery"),
		'404|HTTP status 404|{"error":"404 Not Found"}', 'its attempt has the reply');
};

subtest 'no transaction waits' => sub {
	my ($hangs) = create_webhook($node, name => 'hangs', path => '/hang-until-told', timeout => '5 minutes');
	my $session = Session->new($node, 'postgres') or die $Session::error;
	$session->query("BEGIN");
	my $delivery = $session->query("SELECT delivery_id FROM chatwebhook.test_webhook('$hangs', false)")->{rows};
	chomp $delivery;
	is($receiver->count('hangs'), 0, 'nothing is sent before the commit');
	$session->query('COMMIT');
	ok($receiver->wait_for(1, 'hangs'), 'then it is');
	is(sql(q{SELECT count(*) FROM pg_stat_activity WHERE xact_start IS NOT NULL AND pid <> pg_backend_pid() AND backend_type IN ('client backend', 'chatwebhook worker')}),
		0, 'no transaction is open while the receiver keeps it waiting');
	is(sql("SELECT status, attempts FROM chatwebhook.delivery WHERE id = $delivery"), 'pending|0', 'its outcome is not known');
	$receiver->set(up => ['hangs']);
	becomes_true("SELECT status = 'delivered' FROM chatwebhook.delivery WHERE id = $delivery", 'until the receiver answers');
	$session->query('BEGIN');
	$session->query("SELECT chatwebhook.test_webhook('$hangs', false)");
	$session->query('ROLLBACK');
	$session->close;
	is(sql(q{SELECT count(*) FROM chatwebhook.delivery WHERE webhook_name = 'hangs'}), 1, 'a rollback leaves none');
};

subtest 'not late' => sub {
	my ($down) = create_webhook($node, name => 'down', path => '/down-until-told', backoff => '1 hour', max_backoff => '1 hour');
	my $delivery = call($down) =~ s/^\|+//r;
	becomes_true("SELECT attempts = 1 FROM chatwebhook.delivery WHERE id = $delivery", 'it fails');
	is(sql("SELECT status, next_attempt_at = expires_at, expires_at - created_at BETWEEN '20 seconds' AND '1 minute' FROM chatwebhook.delivery WHERE id = $delivery"),
		'pending|t|t', 'it would not be sent in an hour');
	sql("UPDATE chatwebhook.queue SET next_attempt_at = now(), expires_at = now() WHERE id = $delivery");
	sql("SELECT chatwebhook.resume('$down')");
	becomes_true("SELECT status = 'canceled' FROM chatwebhook.delivery WHERE id = $delivery", 'it is canceled instead');
};

subtest 'roles' => sub {
	script(q{CREATE ROLE acme; SELECT chatwebhook.grant_app('acme')});
	my ($ours) = create_webhook($node, name => 'ours', chatbot_id => 'acme');
	my ($theirs) = create_webhook($node, name => 'theirs', chatbot_id => 'other');
	my $as = q{SET ROLE acme; SET chatwebhook.chatbot = 'acme';};
	my $delivery = script("$as SELECT delivery_id FROM chatwebhook.test_webhook('$ours', false)");
	becomes_true("SELECT status = 'delivered' FROM chatwebhook.delivery WHERE id = $delivery", 'an app tests its own');
	is(script("$as SELECT status, chatbot_id FROM chatwebhook.delivery WHERE id = $delivery"), 'delivered|acme', 'and sees the outcome');
	like(($node->psql('postgres', "$as SELECT chatwebhook.test_webhook('$theirs', false)"))[2], qr/webhook "$theirs" does not exist/, 'but no other');
	is($receiver->count('theirs'), 0, 'which gets nothing');
};

subtest 'what is not sent' => sub {
	my ($off) = create_webhook($node, name => 'off', enabled => 'false');
	like(error_of($off), qr/ERROR:  webhook "off" is disabled\nHINT:  To enable it/, 'to a webhook that is disabled');
	is(sql("SELECT success FROM chatwebhook.test_webhook('$off')"), 't', 'unless one waits for the reply');
	my ($unset) = create_webhook($node, name => 'unset', headers => { 'X-Key' => '{{key}}' });
	sql(q{SELECT chatwebhook.emit('conversation.ended', NULL, NULL, '{}')});
	becomes_true("SELECT problem IS NOT NULL FROM chatwebhook.webhook_health WHERE webhook_id = '$unset'", 'one lacks a credential');
	like(error_of($unset), qr/ERROR:  cannot send to webhook "unset": the credential "key" is not set/, 'which the call says');
	script(q{ALTER SYSTEM SET chatwebhook.outbox = on; SELECT pg_reload_conf()});
	wait_until(q{SELECT current_setting('chatwebhook.outbox') = 'on'});
	like(error_of(sql(q{SELECT id FROM chatwebhook.webhook WHERE name = 'ok'})), qr/does not work while chatwebhook\.outbox is on/, 'from an outbox node');
	is(sql(q{SELECT count(*) FROM chatwebhook.delivery WHERE webhook_name IN ('off', 'unset') AND event_type = 'webhook.test'}), 0, 'and nothing is queued');
};

$node->stop;
done_testing();
