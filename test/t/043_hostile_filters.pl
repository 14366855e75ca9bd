# Filters that should not be there, and SQL that does not end.
#
# What a filter may cost is checked when it is stored and when it is loaded.  Only
# a server can show that one that came past the first check keeps neither others'
# INSERTs nor the worker, which evaluates the filters of webhook.alert; and that
# the worker leaves when it is told to, whatever SQL it is running.

use strict;
use warnings;

use FindBin;
use lib "$FindBin::Bin/../lib";

use Chatwebhook;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;

my $receiver = start_receiver();
my $node = new_node('main', 'chatwebhook.alert_failures' => 1);

# A webhook for the events of the chatbot of the same name; its id.
sub webhook
{
	my ($name, %columns) = @_;
	my ($id) = create_webhook($node, name => $name, chatbot_id => $name, max_retries => 0, %columns);
	return $id;
}

sub worker { return sql('SELECT pid FROM chatwebhook.worker_status'); }

# Wait until this process has ended, and another one delivers.
sub is_replaced
{
	my ($pid, $what) = @_;
	local $Test::Builder::Level = $Test::Builder::Level + 1;

	becomes_true("SELECT NOT EXISTS (SELECT FROM pg_stat_activity WHERE pid = $pid)", "$what: it ends");
	return becomes_true('SELECT count(*) = 1 FROM chatwebhook.worker_status', 'another one starts');
}

becomes_true('SELECT count(*) = 1 FROM chatwebhook.worker_status', 'there is a worker');

#
# Each is what would take for ever, or end in an error.
#
my %filters = (
	nested => q{(repeat('exists($.** ? (', 12) || '@ == 1' || repeat('))', 12))},
	deep => q{('$' || repeat('[0]', 4000) || ' == 1')},
	branching => q{('$' || repeat('[0,0,0,0]', 30) || ' == 1')},
	regular => q{'$.data.** like_regex "^((a+)*)*\\1\\1b$"'},
	large => q{('$.data.a != "' || repeat('x', 20000000) || '"')});
my $data = q{jsonb_build_object('role', repeat('a', 5000), 'content', (repeat('[', 200) || repeat(']', 200))::jsonb,
	'a', (SELECT jsonb_agg(jsonb_build_object('a', jsonb_build_array(n, n))) FROM generate_series(1, 200) AS n))};

subtest 'filters that are refused' => sub {
	foreach my $what (sort keys %filters)
	{
		my (undef, undef, $err) = $node->psql('postgres',
			"INSERT INTO chatwebhook.webhook (name, url, filter) VALUES ('$what', 'https://example.com/', $filters{$what}::jsonpath)");
		like($err, qr/invalid filter of webhook "$what"/, $what);
	}
};

webhook('listener', chatbot_id => undef, events => ['webhook.alert']);
webhook('rival');
script(q{CREATE TABLE chat (bot text, role text, content jsonb);
	CREATE TRIGGER e AFTER INSERT ON chat FOR EACH ROW
		EXECUTE FUNCTION chatwebhook.emit('message.sent', 'chatbotId=bot', 'role', 'content')});
script("SET session_replication_role = replica;
	INSERT INTO chatwebhook.webhook (name, url, chatbot_id, events, filter)
		SELECT v.name || e.n, 'https://example.com/', CASE WHEN e.n = 1 THEN 'customer' END, e.events, v.filter::jsonpath
		  FROM (VALUES " . join(', ', map { "('$_', $filters{$_})" } sort keys %filters) . ") AS v(name, filter),
		       (VALUES (1, '{*}'::text[]), (2, '{*,webhook.*}')) AS e(n, events);
	INSERT INTO chatwebhook.health (webhook_id) SELECT id FROM chatwebhook.webhook ON CONFLICT DO NOTHING");

subtest 'filters that came past the check, in an INSERT of several chatbots\' rows' => sub {
	my $pid = worker();

	sql("INSERT INTO chat SELECT v.bot, d.data->>'role', d.data FROM (VALUES ('customer'), ('rival')) AS v(bot), (SELECT $data AS data) AS d");
	ok($receiver->wait_for(1, 'rival'), 'the other one\'s event arrives');
	is(sql(q{SELECT count(*) FROM chatwebhook.delivery WHERE chatbot_id = 'customer'}), 0, 'the filters match nothing');
	like(sql(q{SELECT problem FROM chatwebhook.webhook_health WHERE name = 'nested1'}), qr/^nothing matches its filter: /,
		'and their health says so');
	is(worker(), $pid, 'the worker is the same');
};

subtest 'filters that came past the check, in the worker' => sub {
	my $pid = worker();

	webhook('failing', path => '/status/500');
	sql(q{SELECT chatwebhook.emit('conversation.ended', 'failing', NULL, '{}')});
	ok($receiver->wait_for(1, 'listener'), 'an alert reaches those who listen');
	is(worker(), $pid, 'the worker is the same');
	sql(q{SELECT chatwebhook.emit('conversation.ended', 'rival', NULL, '{}')});
	ok($receiver->wait_for(2, 'rival'), 'and delivers');
};

#
# SQL that does not end: here, a trigger that fires even for the worker.
#
script(q{CREATE TABLE stuck (); INSERT INTO stuck DEFAULT VALUES;
	CREATE FUNCTION be_stuck() RETURNS trigger LANGUAGE plpgsql AS $$
	BEGIN
		WHILE EXISTS (SELECT FROM public.stuck) LOOP
			BEGIN
				PERFORM pg_sleep(0.01);
			EXCEPTION WHEN query_canceled THEN
				NULL;
			END;
		END LOOP;
		RETURN NULL;
	END $$;
	CREATE TRIGGER stuck AFTER INSERT ON chatwebhook.attempt FOR EACH ROW EXECUTE FUNCTION be_stuck();
	ALTER TABLE chatwebhook.attempt ENABLE ALWAYS TRIGGER stuck});

sub gets_stuck
{
	# a failed attempt, which is kept
	sql(q{SELECT chatwebhook.emit('conversation.ended', 'failing', NULL, '{}')});
	return becomes_true(q{SELECT EXISTS (SELECT FROM pg_stat_activity
		WHERE backend_type = 'chatwebhook worker' AND wait_event = 'PgSleep')}, 'the worker is stuck in SQL');
}

subtest 'pg_terminate_backend() ends SQL in the worker' => sub {
	my $pid = worker();

	gets_stuck();
	sql("SELECT pg_terminate_backend($pid)");
	is_replaced($pid, 'the worker is terminated');
};

subtest 'a fast shutdown ends SQL in the worker' => sub {
	gets_stuck();
	end_sessions();
	$node->stop('fast');
	pass('it is down');
	$node->start;
	sql('DELETE FROM stuck');
	ok(wait_idle($node), 'all is delivered after that');
};

done_testing();
