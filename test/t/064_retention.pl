# Finished rows leave after their time, and nothing else does.
#
# Only a worker at its upkeep can show which rows of every kind have left when it
# is done, that an event goes with its last delivery and not before, that the files
# stop growing, and that neither deliveries nor the locks of other sessions wait
# for it.  Vacuum is run by hand in between: when autovacuum comes is for it to
# decide.

use strict;
use warnings;

use FindBin;
use lib "$FindBin::Bin/../lib";

use Chatwebhook;
use List::Util qw(max);
use PostgreSQL::Test::Utils;
use Test::More;
use Time::HiRes qw(sleep time);

my $receiver = start_receiver();
my $node = new_node(
	'main',
	'autovacuum' => 'off',
	'chatwebhook.log_attempts' => 'all',
	'chatwebhook.retention' => '-1',
	'chatwebhook.attempt_retention' => '-1',
	'chatwebhook.dead_letter_retention' => '-1');

# How long each kind is kept.
sub keep
{
	my %settings = @_;
	sql("ALTER SYSTEM SET chatwebhook.$_ = '$settings{$_}'") foreach sort keys %settings;
	$node->reload;
	return;
}

# Wait until a pass that begins from here on has ended.  A reload makes one
# begin at once, if none is under way; a pass takes activities last.
sub whole_pass
{
	# a pass that is under way may have gone by what was put there since
	foreach my $which (1, 2)
	{
		sql(q{INSERT INTO chatwebhook.activity (since, worker) VALUES ('2026-01-02', 999)});
		$node->reload;
		wait_until('SELECT NOT EXISTS (SELECT FROM chatwebhook.activity WHERE worker = 999)')
		  or die "there is no pass\n";
	}
	return;
}

# The same when nothing would leave with the activities.  They are still read at
# the end of each pass, which the worker reports now and then: with what it has
# reported last, another two times make a whole pass.
sub whole_pass_seen
{
	my $reads = sub {
		return sql(q{SELECT seq_scan + idx_scan FROM pg_stat_all_tables WHERE relid = 'chatwebhook.activity'::regclass});
	};
	my $deadline = time + $PostgreSQL::Test::Utils::timeout_default;
	foreach my $more (1, 2)
	{
		my $before = $reads->();
		while ($reads->() < $before + $more)
		{
			die "there is no pass\n" if time > $deadline;
			$node->reload;
			sleep 0.1;
		}
	}
	return;
}

#
# Settings.
#
my @periods = map { "chatwebhook.$_" } qw(retention attempt_retention dead_letter_retention disable_after);
my %refused = (
	'soon' => qr/invalid value for parameter "%s": "soon"/,
	'' => qr/invalid value for parameter "%s": ""/,
	'infinite' => qr/invalid value for parameter "%s": "infinite"/,
	'5 parsecs' => qr/invalid value for parameter "%s": "5 parsecs".*HINT:  Valid units for this parameter are .*"s".*"d"/s,
	'30 days ago' => qr/invalid value for parameter "%s": "30 days ago".*HINT:  Valid units for this parameter are/s,
	'99999999d' => qr/invalid value for parameter "%s": "99999999d".*HINT:  Value exceeds integer range/s,
	'-2' => qr/-2 s is outside the valid range for parameter "%s" \(-1/,
	'-5d' => qr/-432000 s is outside the valid range for parameter "%s" \(-1/);
foreach my $name (@periods)
{
	foreach my $value (sort keys %refused)
	{
		my $error = ($node->psql('postgres', "ALTER SYSTEM SET $name = '$value'"))[2];
		my $pattern = $refused{$value} =~ s/%s/\Q$name\E/r;
		like($error, qr/ERROR:  $pattern/, "$name = '$value' is refused");
	}
}
# each value with how it is shown
my %accepted = (
	'30d' => '30d', '0' => '0', '12h' => '12h', '90min' => '90min', '45' => '45s',
	'1.5d' => '36h', '7200' => '2h', '-1' => '-1', '2147483647' => '2147483647s');
foreach my $value (sort keys %accepted)
{
	sql("ALTER SYSTEM SET $_ = '$value'") foreach @periods;
	$node->reload;
	becomes_true(
		"SELECT bool_and(current_setting(name) = '$accepted{$value}') FROM unnest('{"
		  . join(',', @periods)
		  . "}'::text[]) AS name",
		"'$value' is understood as $accepted{$value}");
}
sql('ALTER SYSTEM RESET ALL');
$node->reload;
becomes_true(
	"SELECT string_agg(current_setting(name), ' ') = '-1 -1 -1 5d' FROM unnest('{"
	  . join(',', @periods)
	  . "}'::text[]) AS name",
	'all are as they were');

#
# Which rows leave.
#
my $now = sql('SELECT now()');
my ($closed) = create_webhook($node, name => 'closed', path => '/ok', enabled => 0);
script(qq{
	-- ids of some days ago, as emit() would have given them then
	CREATE FUNCTION ago(days numeric) RETURNS timestamptz LANGUAGE sql
		AS \$\$ SELECT timestamptz '$now' - days * interval '1 day' \$\$;
	CREATE FUNCTION event_id(days numeric, n int) RETURNS uuid LANGUAGE sql
		AS \$\$ SELECT (lpad(to_hex((extract(epoch FROM ago(days)) * 1000)::bigint), 12, '0')
			|| '7000800000' || lpad(to_hex(n), 10, '0'))::uuid \$\$;
	CREATE FUNCTION delivery_id(days numeric, n int) RETURNS bigint LANGUAGE sql
		AS \$\$ SELECT (extract(epoch FROM ago(days) - '2026-01-01 00:00+00'::timestamptz) * 1000000)::bigint + n \$\$;
	CREATE TABLE names (id uuid, name text)});

# An event of some days ago, and its deliveries: a table, and when each was
# finished.
my $n = 0;

sub event
{
	my ($name, $days, @deliveries) = @_;
	my $event = script(qq{
		INSERT INTO names VALUES (event_id($days, @{[ ++$n ]}), '$name');
		INSERT INTO chatwebhook.event (id, type, created_at, first_delivery, last_delivery, data)
		VALUES (event_id($days, $n), 'conversation.ended', ago($days), 0, 0, '{}') RETURNING id});
	while (my ($table, $finished) = splice @deliveries, 0, 2)
	{
		$n++;
		my $status = $table eq 'dead' ? 'dead' : $table eq 'canceled' ? 'canceled' : 'delivered';
		$table = 'history' if $table eq 'canceled';
		sql($table eq 'queue'
			? qq{INSERT INTO chatwebhook.queue (id, webhook_id, event_id, created_at, next_attempt_at)
				VALUES (delivery_id($days, $n), '$closed', '$event', ago($days), ago($days))}
			: qq{INSERT INTO chatwebhook.$table (id, webhook_id, event_id, created_at, completed_at, attempts, webhook_name, status)
				VALUES (delivery_id($days, $n), '$closed', '$event', ago($days), ago($finished), 1, '$name', '$status')});
	}
	sql(qq{UPDATE chatwebhook.event e SET first_delivery = d.first, last_delivery = d.last
		FROM (SELECT min(id) AS first, max(id) AS last FROM chatwebhook.delivery WHERE event_id = '$event') d
		WHERE e.id = '$event' AND d.first IS NOT NULL});
	return;
}

sub attempt
{
	my ($name, $days, $started) = @_;
	$n++;
	sql(qq{INSERT INTO chatwebhook.attempt (delivery_id, attempt, webhook_id, started_at, error)
		VALUES (delivery_id($days, $n), 1, '$closed', ago($started), '$name')});
	return;
}

event('delivered', 15, history => 15);
event('canceled', 15, canceled => 15);
event('recent', 5, history => 5);
event('recent letter', 5, dead => 5);
event('late', 15, history => 5);
event('nothing left', 15);
event('nothing left recently', 5);
event('letter', 15, dead => 15);
event('old letter', 25, dead => 25);
event('late letter', 25, dead => 15);
event('pending', 35, 'queue', 0);
event('pending sibling', 35, history => 35, queue => 0);
event('letter and pending sibling', 35, dead => 35, queue => 0);
event('kept by a letter', 15, history => 15, dead => 15);
event('kept by a delivery', 25, history => 5, dead => 25);
event('two', 15, history => 15, history => 14);
event('both', 25, history => 25, dead => 25);
attempt('old', 6, 6);
attempt('recent', 4, 4);
attempt('recent of an old delivery', 15, 4);
attempt('very old', 40, 40);
script(qq{INSERT INTO chatwebhook.alert (id, webhook_id, webhook_name, kind, message, opened_at, closed_at) VALUES
	(chatwebhook.uuidv7(), '$closed', 'old', 'backlog', '', ago(20), ago(15)),
	(chatwebhook.uuidv7(), '$closed', 'late', 'backlog', '', ago(20), ago(5)),
	(chatwebhook.uuidv7(), '$closed', 'open', 'webhook_disabled', '', ago(40), NULL);
	INSERT INTO chatwebhook.activity (since, worker) VALUES
	(ago(15), 1), (ago(10) - interval '5 minutes', 2), (ago(5), 3)});

my %queries = (
	events => q{SELECT name FROM chatwebhook.event JOIN names USING (id) ORDER BY name},
	history => q{SELECT webhook_name || '/' || status FROM chatwebhook.history ORDER BY 1},
	dead => q{SELECT webhook_name FROM chatwebhook.dead ORDER BY 1},
	queue => q{SELECT name FROM chatwebhook.queue q JOIN names e ON e.id = q.event_id ORDER BY 1},
	attempts => q{SELECT error FROM chatwebhook.attempt ORDER BY 1},
	alerts => q{SELECT webhook_name FROM chatwebhook.alert ORDER BY 1},
	activity => q{SELECT worker FROM chatwebhook.activity WHERE worker <> 999 ORDER BY 1});

sub all_left
{
	return map { $_ => join(', ', split /\n/, sql($queries{$_})) } keys %queries;
}

sub left_are
{
	my ($what, %expected) = @_;
	local $Test::Builder::Level = $Test::Builder::Level + 1;
	my %left = all_left();
	foreach my $kind (sort keys %queries)
	{
		is($left{$kind}, $expected{$kind}, "$what: $kind");
	}
	return;
}

my %everything = all_left();
is(scalar(split /, /, $everything{events}), 17, 'there is something of every kind');
keep(retention => '-1', attempt_retention => '-1', dead_letter_retention => '-1');
whole_pass_seen();
left_are('all kept forever', %everything);

keep(retention => '-1', attempt_retention => '5d', dead_letter_retention => '100d');
whole_pass_seen();
left_are('attempts only', %everything, attempts => 'recent, recent of an old delivery');

# longer than letters are; letters for ever
keep(retention => '30d', attempt_retention => '5d', dead_letter_retention => '-1');
whole_pass();
left_are('those of 30 days', %everything,
	history => $everything{history} =~ s{, pending sibling/delivered}{}r,
	attempts => 'recent, recent of an old delivery');

keep(retention => '10d', dead_letter_retention => '20d');
whole_pass();
left_are('each in its time',
	events => join(', ', 'kept by a delivery', 'kept by a letter', 'late', 'late letter', 'letter',
		'letter and pending sibling', 'nothing left recently', 'pending', 'pending sibling', 'recent', 'recent letter'),
	history => 'kept by a delivery/delivered, late/delivered, recent/delivered',
	dead => 'kept by a letter, late letter, letter, recent letter',
	queue => 'letter and pending sibling, pending, pending sibling',
	attempts => 'recent, recent of an old delivery',
	alerts => 'late, open',
	activity => '2, 3');

# letters for a shorter time than deliveries
keep(retention => '20d', dead_letter_retention => '10d');
whole_pass();
left_are('letters go sooner',
	events => join(', ', 'kept by a delivery', 'late', 'letter and pending sibling', 'nothing left recently', 'pending',
		'pending sibling', 'recent', 'recent letter'),
	history => 'kept by a delivery/delivered, late/delivered, recent/delivered',
	dead => 'recent letter',
	queue => 'letter and pending sibling, pending, pending sibling',
	attempts => 'recent, recent of an old delivery',
	alerts => 'late, open',
	activity => '2, 3');

#
# Real ones, in seconds.
#
keep(retention => '-1', attempt_retention => '-1', dead_letter_retention => '-1');
sql(q{DELETE FROM chatwebhook.webhook});
sql(qq{TRUNCATE chatwebhook.$_}) foreach qw(event history dead attempt alert activity);
my ($ok) = create_webhook($node, name => 'ok', path => '/ok', chatbot_id => 'a');
my ($refusing) = create_webhook($node, name => 'refusing', path => '/status/400', chatbot_id => 'b');
my ($hanging) = create_webhook($node, name => 'hanging', path => '/hang-until-told', chatbot_id => 'a', timeout => '5 minutes');

sub emit
{
	my ($chatbot, $count) = @_;
	sql(qq{SELECT chatwebhook.emit('conversation.ended', '$chatbot', NULL, '{}') FROM generate_series(1, $count)});
	return;
}
emit('a', 2);
emit('b', 3);
becomes_true(q{SELECT (SELECT count(*) FROM chatwebhook.history) = 2 AND (SELECT count(*) FROM chatwebhook.dead) = 3},
	'some are finished, of which two have a sibling that is under way');
keep(retention => '1s', attempt_retention => '1s');
becomes_true(q{SELECT NOT EXISTS (SELECT FROM chatwebhook.history) AND NOT EXISTS (SELECT FROM chatwebhook.attempt)}, 'they leave by themselves');
is(sql(q{SELECT count(*), count(*) FILTER (WHERE q.id IS NOT NULL), count(*) FILTER (WHERE d.id IS NOT NULL) FROM chatwebhook.event e
		LEFT JOIN chatwebhook.queue q ON q.event_id = e.id LEFT JOIN chatwebhook.dead d ON d.event_id = e.id}),
	'5|2|3', 'but no event that is still to be delivered, or in a dead letter');
$receiver->set(up => ['hanging']);
becomes_true(q{SELECT NOT EXISTS (SELECT FROM chatwebhook.queue)}, 'the siblings are delivered');
becomes_true(q{SELECT count(*) = 3 FROM chatwebhook.event}, 'and their events leave with them');
is(sql('SELECT chatwebhook.retry_dead()'), 3, 'a dead letter is retried, however old its event is');
becomes_true(q{SELECT count(*) = 3 FROM chatwebhook.dead}, 'it dies again');
keep(dead_letter_retention => '1s');
becomes_true(q{SELECT NOT EXISTS (SELECT FROM chatwebhook.dead) AND NOT EXISTS (SELECT FROM chatwebhook.event)}, 'they leave when their time is over, with their events');

# what is brought back just when it is to leave
keep(retention => '-1', attempt_retention => '-1', dead_letter_retention => '-1');
emit('a', 5);
becomes_true(q{SELECT count(*) = 10 FROM chatwebhook.history}, 'five more are delivered, to two');
sql(q{ALTER SYSTEM SET chatwebhook.retention = '0'});
my $before = $receiver->count('ok');
script(qq{BEGIN; DELETE FROM chatwebhook.history WHERE webhook_id = '$hanging'; COMMIT;
	BEGIN; SELECT chatwebhook.replay('$ok'); SELECT pg_reload_conf();
	-- until the worker waits for a lock
	DO \$\$ BEGIN
		FOR i IN 1 .. 2000 LOOP
			EXIT WHEN EXISTS (SELECT FROM pg_locks WHERE NOT granted);
			PERFORM pg_sleep(0.005);
		END LOOP;
	END \$\$; COMMIT});
ok($receiver->wait_for($before + 5, 'ok'), 'what is replayed while it is to leave is delivered');
is(sql(q{SELECT count(*) FROM chatwebhook.delivery WHERE status = 'canceled'}), 0, 'and not canceled');

#
# No growth, with deliveries and locks going on.
#
my @grown;
keep(retention => '-1', attempt_retention => '-1');
my $locker = q{DO $$ BEGIN
		FOR i IN 1 .. 10 LOOP
			LOCK TABLE chatwebhook.event, chatwebhook.history, chatwebhook.dead, chatwebhook.attempt IN SHARE ROW EXCLUSIVE MODE;
			COMMIT;
			PERFORM pg_sleep(0.01);
		END LOOP; END $$};

foreach my $cycle (1 .. 10)
{
	sql(qq{
		WITH e AS (
			INSERT INTO chatwebhook.event (id, type, chatbot_id, created_at, first_delivery, last_delivery, data)
			SELECT chatwebhook.uuidv7(), 'message.sent', 'c', clock_timestamp(), 0, 0,
				jsonb_build_object('role', 'bot', 'content', repeat(md5(n::text), 8))
			  FROM generate_series(1, 20000) n RETURNING id, created_at
		), h AS (
			INSERT INTO chatwebhook.history (id, webhook_id, event_id, created_at, completed_at, attempts, webhook_name, status)
			SELECT (extract(epoch FROM created_at - '2026-01-01 00:00+00'::timestamptz) * 1000000)::bigint * 10 / 10
					+ row_number() OVER (), '$ok', id, created_at, clock_timestamp(), 1, 'ok', 'delivered'
			  FROM e RETURNING id
		)
		INSERT INTO chatwebhook.attempt (delivery_id, attempt, webhook_id, started_at, latency_ms, status_code, response_body)
		SELECT id, 1, '$ok', clock_timestamp(), 5, 200, repeat('ok', 50) FROM h});
	push @grown, { map { my ($table, $size) = split /\|/; $table => $size } split /\n/,
		sql(q{SELECT t, pg_total_relation_size('chatwebhook.' || t) FROM unnest('{event,history,attempt}'::text[]) t}) };
	keep(retention => '0', attempt_retention => '0');
	if ($cycle % 5 == 1)
	{
		emit('a', 20);
		my $count = $before + 5 + 20 * (1 + int($cycle / 5));
		ok($receiver->wait_for($count, 'ok'), "cycle $cycle: deliveries go on meanwhile");
		sql($locker);
		isnt(sql('SELECT count(*) FROM chatwebhook.attempt'), 0,
			'and others get their locks, before all has left') if $cycle == 1;
		# a lock that it did not get in time has it rest for minutes
		$node->reload;
	}
	else
	{
		# no rests between the steps, since a reload ends them
		sql(q{DO $$ BEGIN
			FOR i IN 1 .. 3000 LOOP
				PERFORM pg_reload_conf(), pg_sleep(0.005);
				COMMIT;
				EXIT WHEN NOT EXISTS (SELECT FROM chatwebhook.attempt) AND NOT EXISTS (SELECT FROM chatwebhook.event);
			END LOOP; END $$});
	}
	wait_until(q{SELECT NOT EXISTS (SELECT FROM chatwebhook.event)
		AND NOT EXISTS (SELECT FROM chatwebhook.history) AND NOT EXISTS (SELECT FROM chatwebhook.attempt)})
	  or die "cycle $cycle: what is finished does not leave\n";
	keep(retention => '-1', attempt_retention => '-1');
	sql("VACUUM chatwebhook.$_") foreach qw(event history attempt);
}
foreach my $table (qw(event history attempt))
{
	my @sizes = map { $_->{$table} } @grown;
	note("$table: @sizes");
	cmp_ok(max(@sizes[ 3 .. 9 ]), '<=', 1.15 * max(@sizes[ 0 .. 2 ]), "$table: no larger in cycles 4 to 10 than in the first three");
}

done_testing();
