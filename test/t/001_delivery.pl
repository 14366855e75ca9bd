# From a row in a chat table to a request at a receiver.
#
# Only a running worker, and a receiver that checks signatures by its own means,
# can show who gets which event, what a request consists of, and that rollbacks,
# prepared transactions, reloads and restarts decide what is sent.  The worker
# looks through its queue by itself only once an hour here, so whatever arrives
# was sent because a commit or a reload woke the worker.

use strict;
use warnings;

use FindBin;
use lib "$FindBin::Bin/../lib";

use Chatwebhook;
use JSON::PP ();
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;

my $json = JSON::PP->new->canonical->allow_nonref;

my $receiver = start_receiver();
my $node = new_node(
	'main',
	'max_prepared_transactions' => 5);

$node->safe_psql(
	'postgres', q{
	CREATE TABLE message (
		id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
		bot text, conversation text, role text DEFAULT 'user', content text);
	CREATE TRIGGER emit AFTER INSERT ON message
		FOR EACH ROW EXECUTE FUNCTION chatwebhook.emit('message.received',
			'chatbotId=bot', 'conversationId=conversation', 'role', 'content');
});

# Insert messages with these contents, in one transaction.
sub say_in_chat
{
	my (@contents) = @_;
	my $values = join ', ',
	  map { (my $c = $_) =~ s/'/''/g; "('bot-1', 'c-1', '$c')" } @contents;
	return sql("INSERT INTO message (bot, conversation, content) VALUES $values");
}

# The contents that a label has received, sorted.
sub received
{
	my ($label) = @_;
	return [
		sort map { $json->decode($_->{body})->{data}{content} }
		  $receiver->log($label)
	];
}

# Start over, with no webhook and nothing stored.
sub clean
{
	script('DELETE FROM chatwebhook.webhook;
		 TRUNCATE chatwebhook.event, chatwebhook.history, chatwebhook.dead,
			chatwebhook.attempt, message');
	return;
}

# Change a setting by a reload.
sub reload_with
{
	my ($setting, $value) = @_;
	sql("ALTER SYSTEM SET $setting = $value");
	$node->reload;
	return;
}

# How many rows there are of these tables.
sub count_rows
{
	return join ' ', map { sql("SELECT count(*) FROM chatwebhook.$_") } @_;
}

subtest 'each webhook gets the events that it asks for' => sub {
	my %webhooks = (
		'all' => {},
		'exact' => { events => ['message.received'] },
		'pattern' => { events => [ 'lead.captured', 'message.*' ] },
		'other types' => { events => [ 'message.sent', 'conversation.*' ] },
		'bot 1' => { chatbot_id => 'bot-1' },
		'bot 2' => { chatbot_id => 'bot-2' },
		'filter' => { filter => '$.data.content like_regex "refund"' },
		'filter of bot 2' =>
		  { chatbot_id => 'bot-2', filter => '$.data.content == "refund 2"' },
		'disabled' => { enabled => 0 });
	my %expected = (
		'all' => [ 'hello 1', 'hello 2', 'refund 1', 'refund 2' ],
		'exact' => [ 'hello 1', 'hello 2', 'refund 1', 'refund 2' ],
		'pattern' => [ 'hello 1', 'hello 2', 'refund 1', 'refund 2' ],
		'other types' => [],
		'bot 1' => [ 'hello 1', 'refund 1' ],
		'bot 2' => [ 'hello 2', 'refund 2' ],
		'filter' => [ 'refund 1', 'refund 2' ],
		'filter of bot 2' => ['refund 2'],
		'disabled' => []);

	create_webhook($node, name => $_, %{ $webhooks{$_} }) foreach keys %webhooks;
	sql(q{INSERT INTO message (bot, content) VALUES
		('bot-1', 'hello 1'), ('bot-1', 'refund 1'),
		('bot-2', 'hello 2'), ('bot-2', 'refund 2')});
	ok(wait_idle($node), 'the worker is done');
	is_deeply(received($_), $expected{$_}, "what \"$_\" got")
	  foreach sort keys %expected;

	is(count_rows('event', 'history'),
		'4 19', 'each event is stored once, for all its deliveries');
	my %bodies;
	$bodies{ $_->{headers}{'webhook-id'} }{ $_->{body} } = 1
	  foreach $receiver->log;
	is_deeply([ map { scalar keys %$_ } values %bodies ],
		[ 1, 1, 1, 1 ], 'and has one id and one body, whoever gets it');
	my %deliveries = map { $_->{headers}{'x-webhook-delivery'} => 1 } $receiver->log;
	is(scalar keys %deliveries, 19, 'each delivery has a number of its own');

	clean();
	create_webhook($node, name => 'other types', events => ['lead.captured']);
	say_in_chat('nobody listens');
	is(count_rows('event', 'queue'),
		'0 0', 'an event that nobody wants is not stored');
};

subtest 'what a request consists of' => sub {
	clean();
	my ($id, $secret) = create_webhook(
		$node,
		name => 'whole',
		path => '/ok?tenant=7',
		headers => { 'X-Team' => 'sales', 'Authorization' => 'Bearer t0ken' });
	like($secret, qr/^whsec_[A-Za-z0-9+\/]{43}=$/, 'the webhook has a secret');
	my $before = time;
	sql(q{INSERT INTO message (bot, conversation, role, content)
		VALUES ('bot-1', NULL, 'user', E'"Hi"\n\u2028 \\\\ Zoë 😀')});
	ok(wait_idle($node), 'the worker is done');

	my ($request) = $receiver->log('whole');
	my $headers = $request->{headers};
	my ($delivery, $event, $timestamp) = split /\|/, sql(
		q{SELECT d.id, e.id, to_char(date_trunc('milliseconds', e.created_at)
				AT TIME ZONE 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.MS"Z"')
			FROM chatwebhook.delivery d JOIN chatwebhook.event e ON e.id = d.event_id});
	is($request->{method}, 'POST', 'it is a POST');
	is($request->{query}, 'tenant=7', 'the URL\'s query string is kept');
	is($headers->{'content-type'}, 'application/json', 'Content-Type');
	like($headers->{'user-agent'}, qr/^chatwebhook\//, 'User-Agent');
	is($headers->{'x-webhook-event'}, 'message.received', 'X-Webhook-Event');
	is($headers->{'x-webhook-attempt'}, 1, 'X-Webhook-Attempt');
	is($headers->{'x-webhook-delivery'}, $delivery, 'X-Webhook-Delivery');
	is($headers->{'webhook-id'}, $event, 'webhook-id is the event\'s');
	cmp_ok($headers->{'webhook-timestamp'}, '>=', $before, 'webhook-timestamp');
	cmp_ok($headers->{'webhook-timestamp'}, '<=', time, 'is the present');
	like($headers->{'x-webhook-signature'}, qr/^sha256=[0-9a-f]{64}$/,
		'X-Webhook-Signature');
	like($headers->{'webhook-signature'}, qr/^v1,[A-Za-z0-9+\/]{43}=$/,
		'webhook-signature');
	is($headers->{'x-team'}, 'sales', 'a header of the webhook\'s own');
	is($headers->{'authorization'}, 'Bearer t0ken', 'and another');
	is($headers->{'expect'}, undef, 'no Expect');
	is_deeply(
		$request->{verified},
		{ signature => JSON::PP::true, standard => JSON::PP::true },
		'the receiver finds that both signatures hold');
	is( $request->{body},
		qq({"id":"$event","type":"message.received","timestamp":"$timestamp",)
		  . qq("chatbotId":"bot-1","conversationId":null,)
		  . qq("data":{"role":"user","content":"\\"Hi\\"\\n\x{2028} \\\\ Zo\x{eb} \x{1f600}"}}),
		'the body, to the character');

	# Were the receiver's check always true, nothing above would say much.
	$receiver->set_secret('whole', 'whsec_' . 'A' x 43 . '=');
	say_in_chat('other secret');
	ok(wait_idle($node), 'the worker is done');
	my $verified = ($receiver->log('whole'))[1]{verified};
	ok( !$verified->{signature} && !$verified->{standard},
		'under another secret the receiver finds that none holds');
};

subtest 'a retry carries the same id and is signed anew' => sub {
	clean();
	create_webhook(
		$node,
		name => 'twice',
		path => '/flaky/1',
		backoff => '1100 ms');
	say_in_chat('again');
	ok(wait_idle($node), 'the worker is done');

	my @requests = $receiver->log('twice');
	is(scalar @requests, 2, 'it took two requests');
	my ($first, $second) = @requests;
	foreach my $header ('webhook-id', 'x-webhook-delivery', 'x-webhook-event',
		'x-webhook-signature')
	{
		is($second->{headers}{$header},
			$first->{headers}{$header}, "$header is the same");
	}
	is($second->{body}, $first->{body}, 'so is the body');
	is_deeply([ map { $_->{headers}{'x-webhook-attempt'} } @requests ],
		[ 1, 2 ], 'x-webhook-attempt counts');
	cmp_ok($second->{headers}{'webhook-timestamp'},
		'>', $first->{headers}{'webhook-timestamp'}, 'webhook-timestamp is new');
	isnt($second->{headers}{'webhook-signature'},
		$first->{headers}{'webhook-signature'}, 'webhook-signature is new');
	ok($_->{verified}{signature} && $_->{verified}{standard},
		'both signatures hold')
	  foreach @requests;
	cmp_ok($second->{time} - $first->{time},
		'>=', 1.1, 'the first retry waits for as long as backoff says');
	is(sql('SELECT status, attempts, last_status_code, last_error IS NULL
				FROM chatwebhook.delivery'),
		'delivered|2|200|t', 'the delivery says so');
};

subtest 'what is pending for a disabled webhook waits' => sub {
	clean();
	my ($waiting) = create_webhook($node, name => 'waiting');
	my ($retrying) = create_webhook(
		$node,
		name => 'retrying',
		path => '/flaky/1',
		backoff => '1 hour',
		max_backoff => '1 hour');
	my $delivery = "(SELECT id FROM chatwebhook.delivery WHERE webhook_id = '$retrying')";
	create_webhook($node, name => 'others');
	script("BEGIN;
		 INSERT INTO message (content) VALUES ('first');
		 UPDATE chatwebhook.webhook SET enabled = false WHERE id = '$waiting';
		 COMMIT");
	becomes_true("SELECT attempts = 1 FROM chatwebhook.delivery WHERE id = $delivery",
		'one has failed and waits for its retry');
	script("UPDATE chatwebhook.webhook SET enabled = false WHERE id = '$retrying';
		 SELECT chatwebhook.retry($delivery)");
	say_in_chat('second');
	ok(wait_idle($node), 'the worker is done with the others');
	is_deeply(received('others'), [ 'first', 'second' ], 'which got everything');
	is_deeply(received('waiting'), [], 'nothing was sent to a disabled one');
	is($receiver->count('retrying'), 1, 'not even a retry that was asked for');
	is( sql("SELECT h.state, h.pending, d.status, d.attempts
				FROM chatwebhook.webhook_health h
				JOIN chatwebhook.delivery d USING (webhook_id)
				WHERE webhook_id = '$waiting'"),
		'disabled|1|pending|0',
		'it is owed what was emitted before, and nothing since');

	sql('UPDATE chatwebhook.webhook SET enabled = true');
	ok(wait_idle($node), 'once they are enabled, the worker is done with all');
	is_deeply(received('waiting'), ['first'], 'the one got what it was owed');
	is_deeply(received('retrying'), [ 'first', 'first' ], 'and so did the other');
};

subtest 'connections are reused' => sub {
	clean();
	my $own = start_receiver();
	create_webhook($node, name => 'one by one');
	script(join "\n",
		('SELECT chatwebhook.emit(\'webhook.test\', null, null, null);',
			'SELECT chatwebhook.wait_until_idle();') x 20);
	my %connections = map { $_->{connection} => 1 } $own->log;
	is($own->count, 20, 'twenty events, one after the other');
	is(scalar keys %connections, 1, 'took one connection');

	clean();
	create_webhook($node, name => 'together', max_in_flight => 4);
	sql(q{SELECT chatwebhook.emit('webhook.test', null, null, null)
		  FROM generate_series(1, 200)});
	ok(wait_idle($node), 'the worker is done');
	%connections = map { $_->{connection} => 1 } $own->log('together');
	my ($most) = sort { $b <=> $a } map { $_->{concurrent} } $own->log('together');
	is($own->count('together'), 200, 'two hundred at once');
	cmp_ok(scalar keys %connections, '<=', 4, 'took no more than max_in_flight');
	cmp_ok($most, '<=', 4, 'nor were there more requests at one time');
	$own->stop;
	$Chatwebhook::last_receiver = $receiver;
};

subtest 'a secret is rotated' => sub {
	clean();
	my ($id, $first) = create_webhook($node, name => 'rotated');
	my $second = sql("SELECT chatwebhook.rotate_secret('$id', '1 hour')");
	isnt($second, $first, 'the new secret is another');
	$receiver->set_secret('rotated', [ $first, $second ]);
	say_in_chat('both');
	ok(wait_idle($node), 'the worker is done');
	my ($request) = $receiver->log('rotated');
	is_deeply($request->{verified}{keys},
		{ signature => [1], standard => [ 0, 1 ] },
		'within the overlap both secrets have a signature, and the new one comes first');
	like($request->{headers}{'webhook-signature'}, qr/^v1,\S{44} v1,\S{44}$/,
		'webhook-signature lists two');

	# The worker knows the second secret as the previous one while it sends this.
	my $third = sql("SELECT chatwebhook.rotate_secret('$id', '1500 ms')");
	$receiver->set_secret('rotated', [ $first, $second, $third ]);
	say_in_chat('perhaps both');
	ok(wait_idle($node), 'the worker is done');
	is_deeply(($receiver->log('rotated'))[1]{verified}{keys}{signature},
		[2], 'the secret was rotated again');
	becomes_true("SELECT bool_and(expires_at < clock_timestamp())
				FROM chatwebhook.vault
				WHERE webhook_id = '$id' AND name = 'previous_signing_secret'",
		'the overlap is over');
	say_in_chat('one');
	ok(wait_idle($node), 'the worker is done');
	$request = ($receiver->log('rotated'))[2];
	is_deeply($request->{verified}{keys},
		{ signature => [2], standard => [2] },
		'after the overlap only the new secret has signatures');

	my $fourth = sql("SELECT chatwebhook.rotate_secret('$id', '0')");
	$receiver->set_secret('rotated', [ $third, $fourth ]);
	say_in_chat('no overlap');
	ok(wait_idle($node), 'the worker is done');
	is_deeply(
		($receiver->log('rotated'))[3]{verified}{keys},
		{ signature => [1], standard => [1] },
		'without an overlap the old secret ends at once');
};

subtest 'COPY, through a statement trigger with a transition table' => sub {
	clean();
	script(q{
		CREATE TYPE mood AS ENUM ('glad', 'sad');
		CREATE DOMAIN email AS text CHECK (VALUE LIKE '%@%');
		CREATE TABLE lead (bot text, conversation uuid, n int, email email,
			budget numeric, at timestamptz, tags text[], details jsonb,
			mood mood, raw bytea, nothing text);
		CREATE TRIGGER emit AFTER INSERT ON lead
			REFERENCING NEW TABLE AS new_leads
			FOR EACH STATEMENT EXECUTE FUNCTION chatwebhook.emit('lead.found',
				'chatbotId=bot', 'conversationId=conversation', '*');
		INSERT INTO chatwebhook.event_type (name) VALUES ('lead.found');
	});
	create_webhook($node, name => 'leads', events => ['lead.*'], max_in_flight => 8);
	create_webhook(
		$node,
		name => 'rich leads',
		chatbot_id => 'bot-3',
		filter => '$.data.budget > 900');

	my $rows = join '', map {
		join("\t",
			'bot-' . $_ % 7, sprintf('00000000-0000-4000-8000-%012d', $_),
			$_, "visitor$_\@example.com", $_ . '.50', "2026-01-02 03:04:05.$_+00",
			"{a,\"b $_\"}", "{\"z\": [$_, 1.0], \"10\": null}", 'glad',
			'\\\\x00ff', '\\N')
		  . "\n"
	} 1 .. 1000;
	script("COPY lead FROM STDIN;\n$rows\\.\n");
	ok(wait_idle($node), 'the worker is done');
	is(count_rows('event'), 1000, 'each row is an event');

	# Put the bodies beside the rows that they came from.
	my $bodies = join '',
	  map { my $b = $_->{body}; $b =~ s/\\/\\\\/g; "$b\n" }
	  $receiver->log('leads');
	is( script("CREATE TEMP TABLE received (body jsonb);
			 COPY received FROM STDIN;\n$bodies\\.\n
			 SELECT count(*), count(DISTINCT l.n),
				count(*) FILTER (WHERE body->>'chatbotId' = l.bot
					AND body->>'conversationId' = l.conversation::text
					AND body->'data' = to_jsonb(l) - 'bot' - 'conversation')
			 FROM received JOIN lead l ON l.n = (body->'data'->>'n')::int"),
		'1000|1000|1000',
		'each row has arrived once, as to_jsonb shows it');
	is_deeply(
		[
			sort map { $json->decode($_->{body})->{data}{n} }
			  $receiver->log('rich leads')
		],
		[ sort grep { $_ % 7 == 3 && $_ >= 900 } 1 .. 1000 ],
		'a filter and a chatbot choose among them');
	is(sql('SELECT count(*) FROM chatwebhook.delivery WHERE attempts <> 1'),
		0, 'each took one attempt');
};

subtest 'triggers for UPDATE and DELETE' => sub {
	clean();
	script(q{
		CREATE TABLE conversation (id int PRIMARY KEY, bot text, ended boolean, note text);
		INSERT INTO chatwebhook.event_type (name)
			VALUES ('conversation.deleted'), ('statement.updated'), ('statement.deleted');
		CREATE TRIGGER ended AFTER UPDATE ON conversation FOR EACH ROW
			WHEN (NEW.ended AND NOT OLD.ended)
			EXECUTE FUNCTION chatwebhook.emit('conversation.ended',
				'conversationId=id', 'note', 'by=@trigger');
		CREATE TRIGGER deleted AFTER DELETE ON conversation FOR EACH ROW
			EXECUTE FUNCTION chatwebhook.emit('conversation.deleted',
				'conversationId=id', 'note');
		CREATE TRIGGER s_updated AFTER UPDATE ON conversation
			REFERENCING OLD TABLE AS before NEW TABLE AS after FOR EACH STATEMENT
			EXECUTE FUNCTION chatwebhook.emit('statement.updated', 'id', 'note');
		CREATE TRIGGER s_deleted AFTER DELETE ON conversation
			REFERENCING OLD TABLE AS gone FOR EACH STATEMENT
			EXECUTE FUNCTION chatwebhook.emit('statement.deleted', 'id', 'note');
	});
	create_webhook($node, name => 'changes');
	script(q{
		INSERT INTO conversation SELECT n, 'bot-1', false, 'old' FROM generate_series(1, 3) n;
		UPDATE conversation SET ended = true, note = 'new' WHERE id = 1;
		UPDATE conversation SET note = 'newer' WHERE id <= 2;
		DELETE FROM conversation WHERE id >= 2;
		DELETE FROM conversation WHERE id > 100;
	});
	ok(wait_idle($node), 'the worker is done');
	my @events = sort map {
		my $body = $json->decode($_->{body});
		join ' ', $body->{type}, $body->{conversationId} // '-',
		  $json->encode($body->{data})
	} $receiver->log('changes');
	is_deeply(
		\@events,
		[
			'conversation.deleted 2 {"note":"newer"}',
			'conversation.deleted 3 {"note":"old"}',
			'conversation.ended 1 {"by":"trigger","note":"new"}',
			'statement.deleted - {"id":2,"note":"newer"}',
			'statement.deleted - {"id":3,"note":"old"}',
			'statement.updated - {"id":1,"note":"new"}',
			'statement.updated - {"id":1,"note":"newer"}',
			'statement.updated - {"id":2,"note":"newer"}',
		],
		'an UPDATE sends the new row, a DELETE the old one, each in both ways');
};

subtest 'what is rolled back is neither stored nor sent' => sub {
	clean();
	create_webhook($node, name => 'rollback');
	script(q{
		BEGIN;
		INSERT INTO message (content) SELECT 'rolled back' FROM generate_series(1, 300);
		ROLLBACK;
		BEGIN;
		INSERT INTO message (content) VALUES ('before');
		SAVEPOINT s;
		INSERT INTO message (content) SELECT 'in savepoint' FROM generate_series(1, 300);
		ROLLBACK TO s;
		INSERT INTO message (content) VALUES ('after');
		SAVEPOINT t;
		INSERT INTO message (content) VALUES ('released');
		RELEASE t;
		DO $$
		BEGIN
			BEGIN
				INSERT INTO message (content) VALUES ('in exception block');
				RAISE division_by_zero;
			EXCEPTION WHEN division_by_zero THEN
				INSERT INTO message (content) VALUES ('handled');
			END;
		END
		$$;
		COMMIT;
	});
	sql('CREATE TABLE checked (n int UNIQUE DEFERRABLE INITIALLY DEFERRED)');
	my $result = $node->psql('postgres', q{
		BEGIN;
		INSERT INTO message (content) VALUES ('failed at commit');
		INSERT INTO checked VALUES (1), (1);
		COMMIT;
	}, on_error_stop => 1);
	isnt($result, 0, 'one transaction fails as it commits');
	ok(wait_idle($node), 'the worker is done');
	my $expected = [ 'after', 'before', 'handled', 'released' ];
	is_deeply(received('rollback'), $expected, 'what was committed was sent');
	is(count_rows('event', 'queue', 'history', 'dead'),
		'4 0 4 0', 'and nothing else is stored');
};

subtest 'prepared transactions' => sub {
	clean();
	create_webhook($node, name => 'prepared');
	my @numbers = (1, 2, 3);
	script("BEGIN;
		 INSERT INTO message (content) VALUES ('prepared $_');
		 PREPARE TRANSACTION 'p$_'") foreach @numbers;
	say_in_chat('not prepared');
	ok(wait_idle($node), 'the worker is done');
	is_deeply(received('prepared'),
		['not prepared'], 'what is prepared is not sent');

	sql("COMMIT PREPARED 'p1'");
	ok($receiver->wait_for(2, 'prepared'), 'COMMIT PREPARED wakes the worker');
	is_deeply(received('prepared'),
		[ 'not prepared', 'prepared 1' ], 'and it is sent');
	sql("ROLLBACK PREPARED 'p2'");
	$node->restart;
	sql("COMMIT PREPARED 'p3'");
	ok($receiver->wait_for(3, 'prepared'), 'one that outlives a restart is sent');
	ok(wait_idle($node), 'the worker is done');
	is_deeply(
		received('prepared'),
		[ 'not prepared', 'prepared 1', 'prepared 3' ],
		'and the one that was rolled back is not');
	is(count_rows('event', 'queue'), '3 0', 'nor is it stored');
};

subtest 'chatwebhook.enabled = off holds everything back' => sub {
	clean();
	my ($hanging) =
	  create_webhook($node, name => 'under way', path => '/hang-until-told',
		events => ['lead.*']);
	create_webhook($node, name => 'held back', events => ['message.*']);
	sql(q{SELECT chatwebhook.emit('lead.found', null, null, null)});
	ok($receiver->wait_for(1, 'under way'), 'a request is under way');
	reload_with('chatwebhook.enabled', 'off');

	# The worker reads its settings in its own time: until then, it sends.
	my $said = 0;
	my $off = 0;
	my $deadline = time + $PostgreSQL::Test::Utils::timeout_default;
	while (!$off && time < $deadline)
	{
		say_in_chat('probe ' . ++$said);
		sql("SELECT chatwebhook.wait_until_idle('300 ms')");
		$off = sql("SELECT status FROM chatwebhook.delivery
			WHERE event_type = 'message.received' ORDER BY id DESC LIMIT 1") eq 'pending';
	}
	ok($off, 'an event stays pending');
	my $count = $receiver->count('held back');
	say_in_chat(map { "held back $_" } 1 .. 50);
	$receiver->set(up => ['under way']);
	becomes_true("SELECT status = 'delivered' FROM chatwebhook.delivery
				WHERE webhook_id = '$hanging'",
		'the request that was under way is finished');
	is($receiver->count('held back'), $count, 'nothing else was sent since');
	is(count_rows('queue'), 50 + $said - $count, 'all is stored');

	reload_with('chatwebhook.enabled', 'on');
	ok(wait_idle($node), 'once it is on, the worker is done');
	is($receiver->count('held back'), 50 + $said, 'all has gone out');
};

subtest 'what is pending goes on after a restart' => sub {
	clean();
	create_webhook($node, name => 'hanging', path => '/hang-until-told',
		events => ['lead.*'], timeout => '5 minutes');
	create_webhook($node, name => 'stored', events => ['message.*']);
	sql(q{SELECT chatwebhook.emit('lead.found', null, n::text, null)
		  FROM generate_series(1, 20) n});
	ok($receiver->wait_for(1, 'hanging'), 'requests are under way');
	reload_with('chatwebhook.enabled', 'off');
	$node->restart;
	say_in_chat('stored');
	is($receiver->count('stored'), 0, 'not sent while it is off');
	$receiver->set(up => ['hanging']);
	sql('ALTER SYSTEM RESET chatwebhook.enabled');
	$node->restart;
	ok(wait_idle($node), 'after the restart the worker is done');
	is_deeply(received('stored'), ['stored'], 'what was stored before is sent');
	cmp_ok($receiver->count('hanging'),
		'>', 20, 'what was under way at the stop is sent again');
	my %ids = map { $_->{headers}{'webhook-id'} => 1 } $receiver->log('hanging');
	is(scalar keys %ids, 20, 'under the same ids');
	is(sql("SELECT count(*) FROM chatwebhook.delivery
			WHERE status = 'delivered' AND attempts = 1"),
		21, 'what nobody has answered does not count as an attempt');
};

my @unsigned = grep { !$_->{verified}{signature} || !$_->{verified}{standard} }
  grep { $_->{label} ne 'whole' } $receiver->log;
is(scalar @unsigned, 0, 'the signatures of every other request hold');

$node->stop;
done_testing();
