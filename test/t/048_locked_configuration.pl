# A customer locks what can be locked, and keeps the lock.
#
# Only sessions that hold locks on the configuration can show that neither the
# chat's own statements nor the workers wait for them, in sessions and for
# webhooks that they meet for the first time.

use strict;
use warnings;

use FindBin;
use lib "$FindBin::Bin/../lib";

use Chatwebhook;
use PostgreSQL::Test::Utils;
use Session;
use Test::More;

# with a key file, a worker also looks for secrets that are not encrypted
my $key_file = PostgreSQL::Test::Utils::tempdir_short() . '/key';
append_to_file($key_file, unpack('H*', 'k' x 32) . "\n");
chmod 0600, $key_file;
my $receiver = start_receiver();
my $node = new_node('main', 'chatwebhook.secret_key_file' => $key_file);
script(q{CREATE ROLE app; SELECT chatwebhook.grant_app('app');
	CREATE ROLE admin; SELECT chatwebhook.grant_admin('admin')});
create_webhook($node, name => 'known', chatbot_id => 'known');
create_webhook($node, name => 'new', chatbot_id => 'new');
create_webhook($node, name => 'gone', chatbot_id => 'gone', path => '/gone');
create_webhook($node, name => 'all', events => ['lead.captured']);

sub event
{
	my ($chatbot) = @_;
	return "SELECT chatwebhook.emit('feedback.received', '$chatbot', NULL, '{\"rating\": 1}')";
}

sub new_session
{
	my ($role) = @_;
	my $session = Session->new($node, 'postgres') or die $Session::error;
	$session->query("SET ROLE $role") if $role;
	return $session;
}

# the worker and a session know one of the webhooks
sql(event('known'));
ok($receiver->wait_for(1, 'known'), 'a delivery arrives');

my $locker = new_session('app');
foreach my $table (qw(event queue history dead attempt vault health alert event_type connector _webhook delivery webhook_health))
{
	my $answer = $locker->query("BEGIN; LOCK TABLE chatwebhook.$table IN ROW EXCLUSIVE MODE");
	like($answer->{error}, qr/permission denied/, "an app cannot lock $table");
	$locker->query('ROLLBACK');
}
my $answer = $locker->query('BEGIN; LOCK TABLE chatwebhook.webhook IN ACCESS EXCLUSIVE MODE');
is($answer->{error}, undef, 'but webhook, which it may write');

# whoever would wait for the lock gets an error instead
sub emits
{
	my ($session, $chatbot, $what) = @_;
	$session->query(q{SET lock_timeout = '1ms'});
	my $said = $session->query(event($chatbot));
	is($said->{error}, undef, $what);
	like($said->{rows}, qr/^[0-9a-f-]{36}$/m, 'with an event');
	return;
}
emits(new_session(), 'known', 'a new session emits');
emits(new_session(), 'new', 'and for a webhook that no process has loaded');
ok($receiver->wait_for(2, 'known'), 'the worker delivers');
ok($receiver->wait_for(1, 'new'), 'to this one as well');
sql('UPDATE chatwebhook.vault SET created_at = created_at');
sql(event('known'));
ok($receiver->wait_for(3, 'known'), 'and does so after a change of secrets');
sql(event('gone'));
ok($receiver->wait_for(1, 'gone'), 'the receiver says that it is gone');
sql(event('known'));
ok($receiver->wait_for(4, 'known'), 'that the webhook cannot be disabled holds up no other');
is(sql(q{SELECT count(*) FROM pg_locks l JOIN chatwebhook.worker_status s USING (pid) WHERE NOT l.granted}),
	0, 'the worker does not wait');
$locker->query('COMMIT');
becomes_true(q{SELECT NOT enabled FROM chatwebhook.webhook WHERE name = 'gone'}, 'when the lock is gone, that webhook is disabled');

# an administrator locks the rest of the configuration
my $admin = new_session('admin');
$answer = $admin->query('BEGIN; LOCK TABLE chatwebhook.webhook, chatwebhook.event_type, chatwebhook.connector IN ACCESS EXCLUSIVE MODE');
is($answer->{error}, undef, 'an admin locks event types and connectors, too');
emits(new_session(), 'known', 'a new session emits');
$admin->query('ROLLBACK');
ok($receiver->wait_for(5, 'known'), 'its event arrives');

# what a customer changed while the table was locked counts from its commit on
$answer = $locker->query(q{BEGIN; SET LOCAL chatwebhook.chatbot = 'known'; LOCK TABLE chatwebhook.webhook;
	UPDATE chatwebhook.webhook SET enabled = false});
is($answer->{error}, undef, 'who holds the lock changes a webhook');
my $session = new_session();
emits($session, 'known', 'before the commit, it gets events');
$locker->query('COMMIT');
is($session->query(event('known'))->{rows}, "\n", 'after it, none');
sql(q{UPDATE chatwebhook.webhook SET enabled = true WHERE name = 'known'});
ok($receiver->wait_for(6, 'known'), 'and what it got waits until it is enabled');

# the copy is one
is(sql(q{SELECT count(*) FROM chatwebhook.webhook w FULL JOIN chatwebhook._webhook c ON to_jsonb(c) = to_jsonb(w) WHERE w.id IS NULL OR c.id IS NULL}),
	0, 'the copy has all rows as they are');
sql(q{DELETE FROM chatwebhook.webhook WHERE name = 'new'});
is(sql(q{SELECT count(*) FROM chatwebhook._webhook WHERE name = 'new'}), 0, 'and none that was deleted');

done_testing();
