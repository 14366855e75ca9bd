# What a worker has claimed and does not send it gives back, and sends later.
#
# Only a transaction that fails behind its first claims, and webhooks that are
# disabled while their deliveries are claimed, can show that: a claim that stays
# would keep its delivery from everybody for as long as the worker runs.

use strict;
use warnings;

use FindBin;
use lib "$FindBin::Bin/../lib";

use Chatwebhook;
use PostgreSQL::Test::Utils;
use Test::More;

my $receiver = start_receiver();
my $node = new_node('main');
my $pid;

sql(q{INSERT INTO chatwebhook.event_type (name) VALUES ('test.claim')});
becomes_true('SELECT count(*) = 1 FROM chatwebhook.worker_status', 'there is a worker');
$pid = sql('SELECT pid FROM chatwebhook.worker_status');

# A webhook for the events of the chatbot of its name.
sub webhook
{
	my ($name, %columns) = @_;
	my ($id) = create_webhook($node, name => $name, chatbot_id => $name, events => ['test.claim'], %columns);
	return $id;
}

sub emit
{
	my ($chatbot, $conversation, @numbers) = @_;
	$conversation = defined $conversation ? "'$conversation'" : 'NULL';
	sql(qq{SELECT count(chatwebhook.emit('test.claim', '$chatbot', $conversation, jsonb_build_object('n', n))) FROM unnest('{@{[join ',', @numbers]}}'::int[]) n});
	return;
}

# Of a webhook's deliveries, how many have which status.
sub states
{
	my ($name) = @_;
	return sql(qq{SELECT string_agg(s, ' ' ORDER BY s) FROM (SELECT status || '=' || count(*) AS s
		FROM chatwebhook.delivery WHERE webhook_name = '$name' GROUP BY status) x});
}

sub becomes
{
	my ($name, $states, $what) = @_;
	local $Test::Builder::Level = $Test::Builder::Level + 1;
	return becomes_true(qq{SELECT string_agg(s, ' ' ORDER BY s) = '$states' FROM (SELECT status || '=' || count(*) AS s
		FROM chatwebhook.delivery WHERE webhook_name = '$name' GROUP BY status) x}, $what);
}

# How many of a webhook's deliveries a worker holds.
sub held
{
	my ($name) = @_;
	return sql("SELECT in_flight FROM chatwebhook.webhook_health WHERE name = '$name'");
}

subtest 'a transaction that fails behind its first claims' => sub {
	# an event that cannot be read; the others are claimed before it, in one go
	my $id = webhook('broken');
	webhook('beside');
	script('ALTER TABLE chatwebhook.event ALTER created_at DROP NOT NULL');
	my $offset = -s $node->logfile;
	while_stopped(sub {
		# the other webhook's are the first to be claimed
		emit('beside', undef, 1 .. 2);
		emit('broken', undef, 1 .. 2);
		sql(q{UPDATE chatwebhook.event SET created_at = NULL WHERE chatbot_id = 'broken' AND data->>'n' = '2'});
	});
	becomes('beside', 'delivered=2', 'another webhook, asked for together with it, is served');
	$node->wait_for_log(qr/ERROR:  unexpected null/, $offset);
	is(states('broken'), 'pending=2', 'its own cannot be claimed');
	becomes_true(q{SELECT in_flight = 0 FROM chatwebhook.webhook_health WHERE name = 'broken'}, 'none of it is held');
	is($receiver->count('broken'), 0, 'nothing is sent');

	# and again and again
	foreach my $round (1 .. 3)
	{
		$offset = -s $node->logfile;
		sql("SELECT chatwebhook.set_credential('$id', 'unused', '$round')");
		$node->wait_for_log(qr/ERROR:  unexpected null/, $offset);
		becomes_true(q{SELECT in_flight = 0 FROM chatwebhook.webhook_health WHERE name = 'broken'}, "$round: none of it is held");
	}
	emit('beside', undef, 3);
	becomes('beside', 'delivered=3', 'another webhook is served');

	sql(q{UPDATE chatwebhook.event SET created_at = now() WHERE created_at IS NULL});
	script('ALTER TABLE chatwebhook.event ALTER created_at SET NOT NULL');
	sql("SELECT chatwebhook.set_credential('$id', 'unused', NULL)");
	becomes('broken', 'delivered=2', 'once it can be read, all is delivered');
	is($receiver->count('broken'), 2, 'each event once');
	is(sql('SELECT pid FROM chatwebhook.worker_status'), $pid, 'by the same worker');
};

# Have a webhook with n under way, and others claimed behind them; gives how many
# requests there were before.
sub hold
{
	my ($name, $n) = @_;
	# its window grows with each success
	$receiver->set(up => [$name]);
	emit($name, undef, 1 .. 10);
	becomes($name, 'delivered=10', "$name: it is known to work");
	$receiver->set(down => [$name]);
	emit($name, undef, 11 .. 40);
	ok($receiver->wait_for(10 + $n, $name), "$name: $n requests are under way");
	cmp_ok(held($name), '>', $n, "$name: and more is claimed: " . held($name));
	return;
}

subtest 'a webhook that is disabled while its deliveries are claimed' => sub {
	my $n = 3;
	webhook('disabled', path => '/hang-until-told', timeout => '5 minutes', max_in_flight => $n);
	hold('disabled', $n);
	sql(q{UPDATE chatwebhook.webhook SET enabled = false WHERE name = 'disabled'});
	becomes_true(qq{SELECT in_flight = $n FROM chatwebhook.webhook_health WHERE name = 'disabled'}, 'only what is under way is held any more');
	$receiver->set(up => ['disabled']);
	becomes('disabled', 'delivered=' . (10 + $n) . ' pending=' . (30 - $n), 'that is delivered');
	emit('beside', undef, 4);
	becomes('beside', 'delivered=4', 'the worker goes on with others');
	is($receiver->count('disabled'), 10 + $n, 'but nothing else is sent to it');
	is(held('disabled'), 0, 'and nothing is held');
	sql(q{UPDATE chatwebhook.webhook SET enabled = true WHERE name = 'disabled'});
	becomes('disabled', 'delivered=40', 'when it is enabled, all is delivered');
	is($receiver->count('disabled'), 40, 'each event once');
};

subtest 'the same within a conversation' => sub {
	my $id = webhook('ordered', path => '/hang-until-told', timeout => '5 minutes', ordered => 't');
	emit('ordered', 'c', 1 .. 3);
	ok($receiver->wait_for(1, 'ordered'), 'the first is under way');
	sql(q{UPDATE chatwebhook.webhook SET enabled = false WHERE name = 'ordered'});
	$receiver->set(up => ['ordered']);
	becomes('ordered', 'delivered=1 pending=2', 'it is delivered');
	emit('beside', undef, 5);
	becomes('beside', 'delivered=5', 'the worker goes on with others');
	is($receiver->count('ordered'), 1, 'but not with the next');
	is(held('ordered'), 0, 'and holds nothing');
	sql(q{UPDATE chatwebhook.webhook SET enabled = true WHERE name = 'ordered'});
	becomes('ordered', 'delivered=3', 'when it is enabled, all is delivered');
	is($receiver->count('ordered'), 3, 'each event once');
};

subtest 'between two requests of a connector' => sub {
	script(q{
		CREATE FUNCTION two_steps(event jsonb, webhook jsonb, replies jsonb) RETURNS chatwebhook.request
			LANGUAGE sql STABLE AS $$
			SELECT ROW('POST', (webhook->>'url') || '/-/step' || jsonb_array_length(replies),
				NULL, '{}', jsonb_array_length(replies) = 1)::chatwebhook.request
		$$;
		INSERT INTO chatwebhook.connector (name, function) VALUES ('two_steps', 'public.two_steps(jsonb,jsonb,jsonb)')
	});
	webhook('steps', url => $receiver->url('/hang-until-told'), connector => 'two_steps', timeout => '5 minutes');
	emit('steps', undef, 1);
	ok($receiver->wait_for(1, 'step0'), 'the first request is under way');
	sql(q{UPDATE chatwebhook.webhook SET enabled = false WHERE name = 'steps'});
	$receiver->set(up => [ 'step0', 'step1' ]);
	becomes_true(q{SELECT in_flight = 0 FROM chatwebhook.webhook_health WHERE name = 'steps'}, 'it is answered, and nothing is held');
	emit('beside', undef, 6);
	becomes('beside', 'delivered=6', 'the worker goes on with others');
	is($receiver->count('step1'), 0, 'but not with the second request');
	sql(q{UPDATE chatwebhook.webhook SET enabled = true WHERE name = 'steps'});
	becomes('steps', 'delivered=1', 'when it is enabled, it is delivered');
	is($receiver->count('step0'), 1, 'the first request was made once');
	is($receiver->count('step1'), 1, 'as was the second');
};

is(sql('SELECT count(*) FROM chatwebhook.worker_status WHERE pid = ' . $pid), 1, 'all by one worker');
$node->stop;
done_testing();
