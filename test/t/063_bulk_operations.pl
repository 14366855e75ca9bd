# What operators do to many deliveries at once, against what a plain query says
# that it should reach.
#
# Only deliveries that have really been made can show that a replay reaches those
# of its window at the receiver and no other, that pending ones wait or are kept
# when their webhook goes, and that nothing of an erased conversation is left
# anywhere, not even of what was under way just then.

use strict;
use warnings;

use FindBin;
use lib "$FindBin::Bin/../lib";

use Chatwebhook;
use JSON::PP ();
use PostgreSQL::Test::Utils;
use Session;
use Test::More;
use Time::HiRes qw(sleep);

my $receiver = start_receiver();
my $node = new_node(
	'main',
	'chatwebhook.log_attempts' => 'all',
	'chatwebhook.breaker_threshold' => 0,
	'chatwebhook.alert_failures' => 0,
	'chatwebhook.alert_success_rate' => 0,
	'chatwebhook.connector_timeout' => '1min');
my $json = JSON::PP->new->utf8;

# The error of SQL, run by a role.
sub error_of
{
	my ($role, $sql) = @_;
	return ($node->psql('postgres', "SET ROLE $role; SET chatwebhook.chatbot = '$role';\n$sql"))[2];
}

# A webhook for the events of the chatbot of the same name; its id.
sub webhook
{
	my ($name, $path, %columns) = @_;
	my ($id) = create_webhook(
		$node,
		name => $name,
		path => $path,
		chatbot_id => $name,
		backoff => '10 ms',
		max_retries => 0,
		%columns);
	return $id;
}

# Events, each in a transaction and a millisecond of its own.
sub emit
{
	my ($chatbot, $n) = @_;
	sql(qq{DO \$\$ BEGIN
		FOR i IN 1 .. $n LOOP
			PERFORM chatwebhook.emit('conversation.ended', '$chatbot', 'c' || i, jsonb_build_object('n', i));
			COMMIT;
			PERFORM pg_sleep(0.002);
		END LOOP; END \$\$});
	return;
}

sub idle
{
	local $Test::Builder::Level = $Test::Builder::Level + 1;
	return ok(wait_idle($node), 'all is done');
}

# The events that a receiver got for a webhook since a place in its log, sorted.
sub received
{
	my ($name, $since) = @_;
	my @requests = $receiver->log($name);
	return join(' ', sort map { $_->{headers}{'webhook-id'} } @requests[ ($since // 0) .. $#requests ]);
}

# The same of a query for events.
sub events
{
	my ($query) = @_;
	return join(' ', sort split /\n/, sql($query));
}

# When a webhook's nth event was emitted.
sub moment
{
	my ($name, $n) = @_;
	return sql(qq{SELECT created_at FROM chatwebhook.delivery WHERE webhook_name = '$name'
		ORDER BY created_at OFFSET $n - 1 LIMIT 1});
}

# All that is known of deliveries, but for those of some webhooks.
sub others
{
	my (@names) = @_;
	my $names = join ',', map { "'$_'" } @names;
	return sql(qq{SELECT string_agg(d::text, E'\n' ORDER BY id) FROM chatwebhook.delivery d
		WHERE webhook_name NOT IN ($names)});
}

# Call a function that takes a webhook and a window, first without and then with
# effect; both must tell the number of a query's rows.
sub acts
{
	my ($call, $query, $what, $role) = @_;
	local $Test::Builder::Level = $Test::Builder::Level + 1;
	my $as = defined $role ? "SET ROLE $role; SET chatwebhook.chatbot = '$role';" : '';
	my $predicted = sql("SELECT count(*) FROM ($query) q");
	my $before = others('');
	my $dry = $call =~ s/\)$/, dry_run => true)/r =~ s/\(, /(/r;

	is(script("$as SELECT chatwebhook.$dry"), $predicted, "$what: $predicted, says a dry run");
	is(others(''), $before, 'which changes nothing');
	is(script("$as SELECT chatwebhook.$call"), $predicted, "$what: as many are reached");
	return $predicted;
}

my %id;
script(q{CREATE ROLE acme; SELECT chatwebhook.grant_app('acme')});
$id{$_} = webhook($_, '/ok') foreach 'alpha', 'beta', 'acme';
emit($_, 12) foreach 'alpha', 'beta', 'acme';
idle();

subtest 'replay' => sub {
	my ($since, $until) = (moment('alpha', 4), moment('alpha', 9));
	sql(q{UPDATE chatwebhook.webhook SET enabled = false WHERE name = 'alpha'});
	sql(qq{SELECT chatwebhook.replay('$id{alpha}', '$since', '$since'::timestamptz + '1 microsecond')});
	is(sql(q{SELECT chatwebhook.cancel(id) FROM chatwebhook.queue}), 't', 'one is canceled');
	sql(q{UPDATE chatwebhook.webhook SET enabled = true WHERE name = 'alpha'});

	my $query = qq{SELECT event_id FROM chatwebhook.delivery WHERE webhook_id = '$id{alpha}'
		AND status = 'delivered' AND created_at >= '$since' AND created_at < '$until'};
	my $predicted = events($query);
	my $others = others('alpha');
	my $before = $receiver->count('alpha');
	is(acts("replay('$id{alpha}', '$since', '$until')", $query, 'a window'), 4, 'four, without the canceled one');
	idle();
	is(received('alpha', $before), $predicted, 'the receiver got exactly those');
	is(others('alpha'), $others, 'other webhooks are untouched');
	is(sql(qq{SELECT count(*), min(attempts), max(attempts) FROM chatwebhook.delivery
			WHERE webhook_id = '$id{alpha}' AND status = 'delivered' AND attempts > 1}), '4|2|2', 'they were delivered again');
	is(sql(q{SELECT count(*) FROM chatwebhook.attempt a JOIN chatwebhook.delivery d ON d.id = a.delivery_id
			WHERE webhook_name = 'alpha' AND a.attempt = 2}), 4, 'as their attempts say');

	$before = $receiver->count('alpha');
	$query = qq{SELECT event_id FROM chatwebhook.delivery WHERE webhook_id = '$id{alpha}' AND status = 'delivered'};
	acts("replay('$id{alpha}')", $query, 'without a window');
	idle();
	is(received('alpha', $before), events($query), 'the receiver got all of them');

	is(acts("replay('$id{alpha}', '$until', '$since')", 'SELECT 1 WHERE false', 'a window that is none'), 0, 'none');
	like(error_of('acme', "SELECT chatwebhook.replay('$id{alpha}')"), qr/webhook "$id{alpha}" does not exist/,
		'an app does not reach another\'s');
	like(error_of('acme', "SELECT chatwebhook.replay('$id{alpha}', dry_run => true)"),
		qr/does not exist/, 'nor counts it');
	$before = $receiver->count('acme');
	is(script("SET ROLE acme; SET chatwebhook.chatbot = 'acme'; SELECT chatwebhook.replay('$id{acme}')"), 12, 'but replays its own');
	idle();
	is($receiver->count('acme') - $before, 12, 'which arrive');
	like(($node->psql('postgres', 'SELECT chatwebhook.replay(NULL)'))[2], qr/does not exist/, 'a webhook must be named');
};

subtest 'retry_dead' => sub {
	foreach my $name ('gamma', 'delta', 'acme')
	{
		$id{$name} //= webhook($name, '/down-until-told?status=500');
	}
	sql(qq{UPDATE chatwebhook.webhook SET url = '@{[ $receiver->url('/down-until-told/-/acme?status=500') ]}'
		WHERE name = 'acme'});
	emit($_, 10) foreach 'gamma', 'delta', 'acme';
	idle();
	is(sql(q{SELECT webhook_name, count(*) FROM chatwebhook.dead_letter GROUP BY 1 ORDER BY 1}),
		"acme|10\ndelta|10\ngamma|10", 'there are dead letters');
	my ($since, $until) = (moment('gamma', 3), moment('gamma', 8));
	my $window = "created_at >= '$since' AND created_at < '$until'";
	$receiver->set(up => [ 'gamma', 'delta', 'acme' ]);

	my $query = qq{SELECT event_id FROM chatwebhook.dead_letter WHERE webhook_id = '$id{gamma}' AND $window};
	my $predicted = events($query);
	my $others = others('gamma');
	my $before = $receiver->count('gamma');
	is(acts("retry_dead('$id{gamma}', '$since', '$until')", $query, 'a window'), 5, 'five');
	idle();
	is(received('gamma', $before), $predicted, 'the receiver got exactly those');
	is(others('gamma'), $others, 'other webhooks are untouched');
	is(sql(q{SELECT status, attempts, count(*) FROM chatwebhook.delivery WHERE webhook_name = 'gamma' GROUP BY 1, 2 ORDER BY 1}),
		"dead|1|5\ndelivered|2|5", 'those are delivered, the rest is as it was');

	$query = q{SELECT event_id FROM chatwebhook.dead_letter WHERE chatbot_id = 'acme'};
	$others = others('acme');
	$before = $receiver->count('acme');
	$predicted = events($query);
	is(acts('retry_dead()', $query, 'all that an app sees', 'acme'), 10, 'ten');
	idle();
	is(received('acme', $before), $predicted, 'the receiver got them');
	is(others('acme'), $others, 'those of others stay dead');
	like(error_of('acme', "SELECT chatwebhook.retry_dead('$id{delta}')"), qr/does not exist/, 'an app names its own only');

	$before = $receiver->count('delta');
	is(acts("retry_dead(since => '$since')", "SELECT 1 FROM chatwebhook.dead_letter WHERE created_at >= '$since'",
			'of all webhooks, since a time'), 13, 'thirteen');
	idle();
	is($receiver->count('delta') - $before, 10, 'among them all of another webhook');

	$id{again} = webhook('again', '/flaky/5', max_retries => 2, max_backoff => '10 ms');
	emit('again', 1);
	idle();
	is(sql(q{SELECT status, attempts FROM chatwebhook.delivery WHERE webhook_name = 'again'}), 'dead|3',
		'one has used up its retries');
	is(sql("SELECT chatwebhook.retry_dead('$id{again}')"), 1, 'it is tried again');
	idle();
	is(sql(q{SELECT status, attempts FROM chatwebhook.delivery WHERE webhook_name = 'again'}), 'delivered|6',
		'with as many retries as before');

	my $count = sub { return sql('SELECT chatwebhook.retry_dead(dry_run => true)') };
	my $dead = $count->();
	webhook('lost', '/status/500');
	emit('lost', 2);
	idle();
	is($count->(), $dead + 2, 'two more are dead');
	sql(q{DELETE FROM chatwebhook.event WHERE id = (SELECT min(event_id::text)::uuid FROM chatwebhook.dead WHERE webhook_name = 'lost')});
	is($count->(), $dead + 1, 'one whose event is gone does not count');
	sql(q{DELETE FROM chatwebhook.webhook WHERE name = 'lost'});
	is($count->(), $dead, 'nor does one whose webhook is');
	sql(q{DELETE FROM chatwebhook.dead WHERE webhook_name = 'lost'});
};

subtest 'purge_dead_letters' => sub {
	sql(qq{UPDATE chatwebhook.webhook SET url = '@{[ $receiver->url('/status/400/-/purged') ]}' WHERE name IN ('delta', 'acme')});
	emit($_, 6) foreach 'delta', 'acme';
	idle();
	my $before = sql(q{SELECT completed_at FROM chatwebhook.dead_letter WHERE webhook_name = 'delta' ORDER BY completed_at OFFSET 4 LIMIT 1});
	my $query = qq{SELECT id FROM chatwebhook.dead_letter WHERE webhook_id = '$id{delta}' AND completed_at < '$before'};
	my $ids = join ',', split /\n/, sql($query);
	is(sql("SELECT count(*) FROM chatwebhook.attempt WHERE delivery_id IN ($ids)"), 4, 'they have attempts');
	is(acts("purge_dead_letters('$id{delta}', '$before')", $query, 'one webhook, before a time'), 4, 'four');
	is(sql("SELECT count(*) FROM chatwebhook.attempt WHERE delivery_id IN ($ids)"), 0, 'their attempts are gone');
	is(sql(q{SELECT webhook_name, count(*) FROM chatwebhook.dead_letter GROUP BY 1 ORDER BY 1}),
		"acme|6\ndelta|2\ngamma|2", 'others are not');
	is(acts('purge_dead_letters()', q{SELECT 1 FROM chatwebhook.dead_letter WHERE chatbot_id = 'acme'}, 'of an app', 'acme'),
		6, 'six');
	is(script(qq{SET ROLE acme; SET chatwebhook.chatbot = 'acme'; SELECT chatwebhook.purge_dead_letters('$id{delta}')}), 0, 'an app removes none of others');
	is(acts('purge_dead_letters()', 'SELECT 1 FROM chatwebhook.dead_letter', 'of all'), 4, 'four');
	is(sql('SELECT count(*) FROM chatwebhook.dead_letter'), 0, 'none is left');
};

subtest 'what is pending' => sub {
	$id{slow} = webhook('slow', '/hang-until-told', max_in_flight => 2, timeout => '5 minutes');
	emit('slow', 8);
	ok($receiver->wait_for(2, 'slow'), 'two requests are under way');
	sql(q{UPDATE chatwebhook.webhook SET enabled = false WHERE name = 'slow'});
	$receiver->set(up => ['slow']);
	becomes_true(q{SELECT count(*) FILTER (WHERE status = 'delivered') = 2 AND count(*) FILTER (WHERE status = 'pending') = 6
		FROM chatwebhook.delivery WHERE webhook_name = 'slow'}, 'those end; the others wait when it is disabled');
	webhook('beside', '/ok');
	emit('beside', 1);
	idle();
	is($receiver->count('slow'), 2, 'another webhook is sent to, and it gets nothing more');
	is(sql(q{SELECT pending, in_flight, state FROM chatwebhook.webhook_health WHERE name = 'slow'}), '6|0|disabled', 'as its health says');
	sql(q{SELECT chatwebhook.cancel(min(id)) FROM chatwebhook.delivery WHERE webhook_name = 'slow' AND status = 'pending'});
	sql(q{UPDATE chatwebhook.webhook SET enabled = true WHERE name = 'slow'});
	idle();
	is(sql(q{SELECT status, count(*) FROM chatwebhook.delivery WHERE webhook_name = 'slow' GROUP BY 1 ORDER BY 1}),
		"canceled|1\ndelivered|7", 'enabled again, it gets what waited, but for what was canceled');
	is($receiver->count('slow'), 7, 'once each');

	is(sql(q{SELECT chatwebhook.retry(id), chatwebhook.cancel(id) FROM chatwebhook.delivery
			WHERE webhook_name = 'slow' AND status = 'delivered' LIMIT 1}), 'f|f', 'what is delivered is neither retried nor canceled');
	is(sql(q{SELECT chatwebhook.retry(id) FROM chatwebhook.delivery WHERE status = 'canceled' AND webhook_name = 'slow'}),
		't', 'what was canceled can be retried');
	idle();
	is($receiver->count('slow'), 8, 'and arrives');
	is(sql('SELECT chatwebhook.retry(1), chatwebhook.cancel(1)'), 'f|f', 'there is no such delivery');

	$id{later} = webhook('later', '/flaky/1', max_retries => 3, backoff => '1 hour', max_backoff => '1 hour');
	emit('later', 1);
	becomes_true(q{SELECT attempts = 1 FROM chatwebhook.delivery WHERE webhook_name = 'later'}, 'one waits for an hour');
	my $delivery = sql(q{SELECT id FROM chatwebhook.delivery WHERE webhook_name = 'later'});
	is(script("SET ROLE acme; SET chatwebhook.chatbot = 'acme'; SELECT chatwebhook.retry($delivery), chatwebhook.cancel($delivery)"), 'f|f', 'an app does not see it');
	is(sql("SELECT chatwebhook.retry($delivery)"), 't', 'but can be retried');
	becomes_true(qq{SELECT status = 'delivered' AND attempts = 2 FROM chatwebhook.delivery WHERE id = $delivery}, 'at once');

	emit('later', 5);
	becomes_true(q{SELECT count(*) = 5 AND min(attempts) = 1 FROM chatwebhook.queue}, 'five more wait');
	sql(q{DELETE FROM chatwebhook.webhook WHERE name = 'later'});
	is(sql(q{SELECT status, last_error, count(*) FROM chatwebhook.delivery WHERE webhook_name = 'later' GROUP BY 1, 2 ORDER BY 1}),
		"canceled|the webhook was deleted|5\ndelivered||1", 'deleted with its webhook, they are canceled and kept, with its name');
	is(sql(q{SELECT count(*) FROM chatwebhook.event e JOIN chatwebhook.delivery d ON d.event_id = e.id WHERE webhook_name = 'later'}),
		6, 'and their events');
	like(($node->psql('postgres', q{SELECT chatwebhook.retry(id) FROM chatwebhook.delivery WHERE webhook_name = 'later' AND status = 'canceled'}))[2],
		qr/the webhook of delivery \d+ was deleted/, 'but cannot be retried');
	is(sql(q{SELECT chatwebhook.retry_dead()}), 0, 'nor are they dead letters');
};

subtest 'backfill' => sub {
	script(q{
		CREATE TABLE leads (id int PRIMARY KEY, bot text, "E-Mail" text, note text, chat text);
		INSERT INTO leads SELECT n, CASE WHEN n % 2 = 0 THEN 'even' ELSE 'odd' END, 'p' || n || '@example.com',
			CASE WHEN n > 1 THEN 'it''s "' || n || '"' END, 'c' || n FROM generate_series(1, 10) n;
		CREATE ROLE clerk; SELECT chatwebhook.grant_admin('clerk'); GRANT USAGE ON SCHEMA public TO clerk});
	$id{all} = webhook('all', '/ok', chatbot_id => undef, events => ['feedback.received'], filter => '$.data.rating == 5');
	$id{even} = webhook('even', '/ok', chatbot_id => 'even', events => ['feedback.received']);
	webhook('bystander', '/ok', chatbot_id => undef, events => ['lead.captured']);
	my $mapping = q{'{"email": "E-Mail", "source": "@it''s an import", "conversationSummary": "note",
		"chatbotId": "bot", "conversationId": "chat"}'};
	my $data = sub {
		my ($name, $from) = @_;
		return map { my $e = $json->decode($_->{body}); +{ %$e{qw(type chatbotId conversationId data)} } }
		  ($receiver->log($name))[ $from .. $receiver->count($name) - 1 ];
	};

	is(acts("backfill('$id{all}', 'leads', 'lead.captured', $mapping, 'NEW.id > 3')", 'SELECT 1 FROM leads WHERE id > 3', 'a condition'),
		7, 'seven');
	idle();
	is_deeply([ sort { $a->{conversationId} cmp $b->{conversationId} } $data->('all', 0) ],
		[ sort { $a->{conversationId} cmp $b->{conversationId} } map { {
				type => 'lead.captured',
				chatbotId => $_ % 2 ? 'odd' : 'even',
				conversationId => "c$_",
				data => { email => "p$_\@example.com", source => "it's an import", conversationSummary => qq{it's "$_"} }
			} } 4 .. 10 ],
		'the rows arrive as the mapping says, whatever the webhook is subscribed to');
	is($receiver->count('bystander'), 0, 'and nowhere else');

	is(acts("backfill('$id{even}', 'leads', 'lead.captured', $mapping)", q{SELECT 1 FROM leads WHERE bot = 'even'},
			'a webhook of one chatbot'), 5, 'five');
	idle();
	is(join(' ', sort map { $_->{conversationId} } $data->('even', 0)), 'c10 c2 c4 c6 c8', 'gets that chatbot\'s rows');
	is(sql(qq{SELECT chatwebhook.backfill('$id{even}', 'leads', 'lead.captured',
			'{"email": "E-Mail", "source": "\@x", "conversationSummary": "note"}')}), 0, 'none, if the mapping says nothing of chatbots');

	sql(q{INSERT INTO chatwebhook.event_type (name) VALUES ('test.row')});
	my $before = $receiver->count('all');
	is(acts("backfill('$id{all}', 'leads', 'test.row', '{\"conversationId\": \"chat\", \"*\": \"*\"}', 'NEW.id <= 2')",
			'SELECT 1 FROM leads WHERE id <= 2', 'whole rows'), 2, 'two');
	idle();
	is_deeply([ sort { $a->{data}{id} <=> $b->{data}{id} } $data->('all', $before) ],
		[ map { {
				type => 'test.row', chatbotId => undef, conversationId => "c$_",
				data => { id => $_, bot => $_ % 2 ? 'odd' : 'even', 'E-Mail' => "p$_\@example.com", note => $_ > 1 ? qq{it's "$_"} : undef }
			} } 1, 2 ],
		'all columns but those that went elsewhere');
	is(acts("backfill('$id{all}', 'leads', 'test.row')", 'SELECT 1 FROM leads', 'all rows without a mapping'), 10, 'ten');
	idle();

	my $count = sql('SELECT count(*) FROM chatwebhook.event');
	foreach my $case (
		[ q{'leads', 'test.row', '{"a": "no_such"}'}, qr/column "no_such" of relation "leads" does not exist/ ],
		[ q{'leads', 'test.row', '{"a": "=no_such"}'}, qr/column "no_such" does not exist/ ],
		[ q{'leads', 'test.row', '{"a": "id"}', query => 'SELECT 1'}, qr/takes a mapping or a query, not both/ ],
		[ q{'leads', 'test.row', '[]'}, qr/mapping is not an object/ ],
		[ q{'leads', 'test.none'}, qr/unknown event type: "test\.none"/ ],
		[ q{'leads', 'lead.captured', '{"email": "E-Mail"}'}, qr/event "lead\.captured" requires the key "source", which is missing/ ],
		[ q{'leads', 'test.row', '{}', 'NEW.id / 0 = 1'}, qr/division by zero/ ],
		[ q{'no_such', 'test.row'}, qr/relation "no_such" does not exist/ ])
	{
		my ($arguments, $error) = @$case;
		like(($node->psql('postgres', "SELECT chatwebhook.backfill('$id{all}', $arguments)"))[2], $error, "$arguments: refused");
	}
	like(($node->psql('postgres', q{SELECT chatwebhook.backfill(gen_random_uuid(), 'leads', 'test.row')}))[2],
		qr/webhook "[-0-9a-f]+" does not exist/, 'no such webhook');

	# with the caller's rights, and no others
	my $call = "SELECT chatwebhook.backfill('$id{all}', 'leads', 'test.row'";
	like(error_of('clerk', "$call)"), qr/permission denied for table leads/, 'an administrator without rights on the table emits nothing');
	like(error_of('clerk', "$call, dry_run => true)"), qr/permission denied for table leads/, 'nor counts its rows');
	script('GRANT SELECT ON leads TO clerk; CREATE TABLE secrets AS SELECT 1 AS id; CREATE FUNCTION peek() RETURNS boolean
		LANGUAGE sql AS $$ SELECT count(*) > 0 FROM secrets $$');
	like(error_of('clerk', "$call, condition => 'peek()')"), qr/permission denied for table secrets/, 'the condition has no more rights');
	like(error_of('clerk', "$call, condition => 'pg_read_file(''PG_VERSION'') <> ''''')"), qr/permission denied/, 'nor those of the extension');
	like(error_of('clerk', "$call, condition => 'EXISTS (SELECT FROM chatwebhook.vault)')"), qr/permission denied for table vault/, 'nor sees secrets');
	like(error_of('acme', "$call)"), qr/permission denied for function backfill/, 'an app cannot');
	is(sql('SELECT count(*) FROM chatwebhook.event'), $count, 'nothing was emitted by any of that');
	script(q{ALTER TABLE leads ENABLE ROW LEVEL SECURITY; CREATE POLICY few ON leads FOR SELECT TO clerk USING (id < 4)});
	is(script("SET ROLE clerk; $call, dry_run => true)"), 3, 'its rows are those that the caller sees');
	is(script("SET ROLE clerk; $call)"), 3, 'also when they are emitted');
	idle();
};

#
# Erasing.  What a conversation's words can come to rest in is made to hold them
# first; those of others stay.
#
subtest 'erase_conversation' => sub {
	script(q{
		DELETE FROM chatwebhook.webhook;
		CREATE FUNCTION stumbles(event jsonb, webhook jsonb, replies jsonb) RETURNS chatwebhook.request
			LANGUAGE plpgsql STABLE AS $$
		BEGIN
			IF jsonb_array_length(replies) > 0 THEN
				RAISE EXCEPTION 'cannot use %', event->'data';
			END IF;
			RETURN ROW(NULL, NULL, NULL, event->'data', false)::chatwebhook.request;
		END $$;
		CREATE FUNCTION dawdles(event jsonb, webhook jsonb, replies jsonb) RETURNS chatwebhook.request
			LANGUAGE plpgsql STABLE AS $$
		BEGIN
			-- until what holds this lock lets it go
			WHILE EXISTS (SELECT FROM pg_locks WHERE locktype = 'advisory' AND objid = 63) LOOP
				PERFORM pg_sleep(0.05);
			END LOOP;
			RAISE EXCEPTION 'cannot use %', event->'data';
		END $$;
		INSERT INTO chatwebhook.connector (name, function) VALUES ('stumbles', 'stumbles'), ('dawdles', 'dawdles')});
	my %all = (chatbot_id => undef, events => ['message.sent']);
	my %patient = (%all, max_retries => 3, backoff => '1 hour', max_backoff => '1 hour');
	webhook('echo', '/echo', %all);
	webhook('dead', '/scripted', %all);
	webhook('pending', '/scripted', %patient);
	# these keep the service's reply to their first request
	webhook('stumbled', '/echo', %all, connector => 'stumbles');
	webhook('purged', '/echo', %all, connector => 'stumbles');
	webhook('stumbling', '/echo', %patient, connector => 'stumbles');
	webhook('canceled', '/echo', %patient, connector => 'stumbles');

	my $say = sub {
		my ($chatbot, $conversation, $word, $n) = @_;
		my $reply = { status => 500, headers => { 'X-Said' => "$word-in-header" }, body => "$word-in-reply" };
		$receiver->set(replies => { dead => [$reply], pending => [$reply], hanging => [$reply] });
		my $event = sql("SELECT chatwebhook.emit('message.sent', $chatbot, '$conversation',
			'{\"role\": \"bot\", \"content\": \"$word\"}')");
		becomes_true(qq{SELECT count(*) = 7 AND count(*) FILTER (WHERE attempts = 0) = 0
			FROM chatwebhook.delivery WHERE event_id = '$event'}, "$word was sent to seven");
		sql(qq{SELECT chatwebhook.cancel(id) FROM chatwebhook.delivery
			WHERE webhook_name = 'canceled' AND event_id = '$event'});
		return $event;
	};
	my $events = sub {
		return sql(q{SELECT string_agg(x, E'\n' ORDER BY x) FROM (
			SELECT e::text FROM chatwebhook.event e WHERE data->>'content' ~ 'quibble'
			UNION ALL SELECT a::text FROM chatwebhook.attempt a WHERE a::text ~ 'quibble'
			UNION ALL SELECT t::text FROM (TABLE chatwebhook.history UNION ALL TABLE chatwebhook.dead) t WHERE t::text ~ 'quibble'
			UNION ALL SELECT q::text FROM chatwebhook.queue q WHERE q::text ~ 'quibble') AS all_of_it(x)});
	};
	my $dump = sub {
		my $file = "$PostgreSQL::Test::Utils::tmp_check/dump.sql";
		$node->command_ok([ 'pg_dumpall', '--file' => $file, '--no-sync' ], 'pg_dumpall');
		return slurp_file($file);
	};

	# other conversations, of which one differs by its chatbot only
	$say->("'bot'", 'kept', 'quibble1');
	$say->("'other'", 'erased', 'quibble2');
	$say->('NULL', 'erased', 'quibble3');
	my $kept;
	$say->("'bot'", 'erased', 'zorgle');

	sql(q{SELECT chatwebhook.purge_dead_letters(id) FROM chatwebhook.webhook WHERE name = 'purged'});
	$kept = $events->();

	# they are everywhere, or this would show nothing
	foreach my $place (
		[ event => 'data' ],
		[ attempt => 'response_body' ],
		[ attempt => 'response_headers' ],
		[ attempt => 'error' ],
		[ dead => 'last_error' ],
		[ dead => 'replies' ],
		[ queue => 'last_error' ],
		[ queue => 'replies' ],
		[ history => 'last_error' ],
		[ history => 'replies' ],
		[ health => 'last_error' ])
	{
		my ($table, $column) = @$place;
		is(sql("SELECT count(*) > 0 FROM chatwebhook.$table WHERE $column\::text ~ 'zorgle'"), 't', "$table.$column has the words");
	}
	like($dump->(), qr/zorgle/, 'so has the dump');
	sql('ANALYZE');
	is(sql(q{SELECT string_agg(s.starelid::regclass || '.' || a.attname, ' ')
			FROM pg_statistic s JOIN pg_attribute a ON a.attrelid = s.starelid AND a.attnum = s.staattnum
			WHERE concat(stavalues1, stavalues2, stavalues3, stavalues4, stavalues5) ~ 'zorgle|erased'}), '',
		'but not the statistics that the planner has');

	# and some are under way: a request that hangs, a connector that is at work
	webhook('hanging', '/hang-until-told', %all, events => ['message.received'], timeout => '5 minutes');
	my $holder = $node->background_psql('postgres');
	$holder->query_safe('SELECT pg_advisory_lock(63)');
	webhook('dawdling', '/ok', %all, events => ['conversation.ended'], connector => 'dawdles');
	sql(q{SELECT chatwebhook.emit('message.received', 'bot', 'erased', '{"role": "bot", "content": "zorgle-in-flight"}')});
	ok($receiver->wait_for(1, 'hanging'), 'a request is under way');
	sql(q{SELECT chatwebhook.emit('conversation.ended', 'bot', 'erased', '{"content": "zorgle-in-flight"}')});
	becomes_true(q{SELECT EXISTS (SELECT FROM pg_stat_activity WHERE wait_event = 'PgSleep' AND backend_type ~ 'chatwebhook')},
		'and a connector is called');

	is(sql(q{SELECT chatwebhook.erase_conversation('bot', 'erased', dry_run => true)}), 3, 'a dry run says: three events');
	is(sql(q{SELECT count(*) FROM chatwebhook.event WHERE conversation_id = 'erased'}), 5, 'and changes nothing');
	script(q{CREATE ROLE other; SELECT chatwebhook.grant_app('other')});
	is(script(q{SET ROLE other; SET chatwebhook.chatbot = 'other'; SELECT chatwebhook.erase_conversation('bot', 'erased')}), 0,
		'an app erases what is its chatbot\'s only');
	is(sql(q{SELECT chatwebhook.erase_conversation('bot', 'erased')}), 3, 'three events are erased');
	$receiver->set(up => ['hanging']);
	$holder->quit;
	becomes_true(q{SELECT sum(in_flight) = 0 FROM chatwebhook.worker_status}, 'what was under way has ended');
	becomes_true(q{SELECT total > 0 FROM chatwebhook.webhook_health WHERE name = 'dawdling'}, 'and is counted');
	becomes_true(q{SELECT total > 0 FROM chatwebhook.webhook_health WHERE name = 'hanging'}, 'so is the other');

	my @left = $dump->() =~ /^.*zorgle.*$/mg;
	is("@left", '', 'nothing of it is in a dump');
	is(sql(q{SELECT count(*) FROM chatwebhook.worker_status WHERE worker_status::text ~ 'zorgle'}), 0, 'nor in worker_status');
	is(sql(q{SELECT count(*) FROM chatwebhook.webhook_health h WHERE h::text ~ 'zorgle'}), 0, 'nor in webhook_health');
	is(sql(q{SELECT count(*) FROM chatwebhook.event WHERE conversation_id = 'erased' AND chatbot_id = 'bot'}), 0, 'the events are gone');
	is( sql(q{SELECT webhook_name, status, last_error FROM chatwebhook.delivery d
			WHERE NOT EXISTS (SELECT FROM chatwebhook.event e WHERE e.id = d.event_id) ORDER BY 1}),
		join("\n", map { $_ eq 'echo' ? "$_|delivered|" : "$_|canceled|the conversation was erased" }
			  qw(canceled dawdling echo hanging pending stumbling)),
		'the bare records of their deliveries stay');
	is($events->(), $kept, 'other conversations are as they were');
	is(sql(q{SELECT chatwebhook.erase_conversation('bot', 'erased')}), 0, 'there is nothing more to erase');
	is(sql(q{SELECT chatwebhook.erase_conversation(NULL, 'erased')}), 1, 'that without a chatbot is another one');
	is(script(q{SET ROLE other; SET chatwebhook.chatbot = 'other'; SELECT chatwebhook.erase_conversation('other', 'erased')}), 1, 'and an app erases its own');
	like(($node->psql('postgres', q{SELECT chatwebhook.erase_conversation('bot', NULL)}))[2], qr/needs a conversation/, 'one must be named');
	unlike($dump->(), qr/quibble[23]/, 'of those nothing is left, too');
};

# As docs/performance.md says.
subtest 'an index of conversations' => sub {
	my ($statement) = slurp_file("$FindBin::Bin/../../docs/performance.md") =~ /^(CREATE INDEX CONCURRENTLY .*);$/m;
	my $index = 'chatwebhook.event_conversation_id_type_idx';
	my $session = Session->new($node, 'postgres') or die $Session::error;
	my $emit = q{SELECT chatwebhook.emit('conversation.ended', 'bot', 'looked up', '{}') IS NOT NULL
		AND chatwebhook.emit('conversation.ended', 'acme', 'looked up', '{}') IS NOT NULL};

	# what there was before, and what comes from a session that knows the table without it
	$session->query($emit);
	script(q{INSERT INTO chatwebhook.event (id, type, chatbot_id, conversation_id, created_at, data)
		SELECT chatwebhook.uuidv7(), CASE WHEN i % 100 = 0 THEN 'webhook.exhausted' ELSE 'message.sent' END, 'bot',
			CASE WHEN i % 100 <> 0 AND i % 3 > 0 THEN 'c' || i / 10 END, now(), '{"eventId": "x"}' FROM generate_series(1, 100000) i;
		ANALYZE chatwebhook.event});
	sql($statement);
	is($session->query($emit)->{rows}, "t\n", 'a session goes on to emit');
	$session->close;
	is(script(q{SET enable_seqscan = off; SET enable_bitmapscan = off;
			SELECT count(*) FROM chatwebhook.event WHERE conversation_id = 'looked up'}), 4, 'and the index has it');

	# the statements that find events by it, in a plan for any conversation
	script(q{UPDATE chatwebhook.event SET data = jsonb_build_object('eventId', (SELECT id FROM chatwebhook.event WHERE conversation_id = 'looked up' AND chatbot_id = 'bot' LIMIT 1))
		WHERE id = (SELECT id FROM chatwebhook.event WHERE type = 'webhook.exhausted' LIMIT 1)});
	foreach my $chatbot ('bot', 'acme')
	{
		my $role = $chatbot eq 'acme' ? q{SET ROLE acme; SET chatwebhook.chatbot = 'acme';} : '';
		is(script(qq{BEGIN; $role
				SELECT chatwebhook.erase_conversation('$chatbot', 'looked up');
				SELECT seq_scan FROM pg_stat_xact_all_tables WHERE relid = 'chatwebhook.event'::regclass;
				COMMIT}), "2\n0", "$chatbot: a conversation is erased without reading the whole table");
	}
	is(sql(q{SELECT count(*) FROM chatwebhook.event WHERE type = 'webhook.exhausted' AND data->>'eventId' <> 'x'}), 0,
		'along with what was emitted about its deliveries');

	# nothing of the extension's is upset
	sql('CREATE DATABASE restored TEMPLATE template0');
	$node->command_ok([ 'bash', '-c', 'pg_dump --no-sync -d postgres | psql -X -q -v ON_ERROR_STOP=1 -d restored' ], 'a dump can be restored');
	is(sql_in('restored', "SELECT to_regclass('$index') IS NULL, count(*) > 0 FROM chatwebhook.event"), 't|t', 'it has no such index');
	sql_in('restored', $statement);
	# the connectors above are no matter of the index
	sql_in('restored', 'DROP FUNCTION stumbles, dawdles; DROP EXTENSION chatwebhook');
	is(sql_in('restored', "SELECT count(*) FROM pg_class WHERE relname ~ '^event_conversation'"), 0, 'DROP EXTENSION removes the index');
};

done_testing();
