
=head1 NAME

Chaos - everything at once, and then an account of it

=head1 SYNOPSIS

  use Chaos;
  run_chaos(duration => 300, seed => 42);

=head1 DESCRIPTION

For so many seconds sessions emit events, about 500 a second in all, some in
transactions that are rolled back, while at random

  - workers are ended by SIGTERM and killed (upon which the server starts
    afresh), the launcher is ended, the server is stopped in immediate mode;
  - endpoints hang, reset, break off, answer what is no answer, fail, and
    recover;
  - webhooks are inserted, disabled, enabled, given another URL and deleted;
  - some get their events in batches, whose size and window are changed;
  - the number of workers, of requests under way and the like are changed by a
    reload, and everything is switched off for a moment.

Processes are ended in the first two fifths of the time only, so that the
workers of the rest can be seen to grow or not.  Then every fault is mended, and
what was to arrive has to be there.

What was to arrive is known from a table of our own.  A transaction that emits
also writes there, for each event, the webhooks that a plain query has found
enabled both before and after it, in the same version of the row and changed no
less than two seconds ago.  Of a webhook that was changed just then nobody can
say from outside whether the event or the change came first, so nothing is said
of it; nor of one that has been deleted by the end.  (One that is deleted while
an event is emitted may be left with a delivery, which the worker cancels after
ten minutes: until then it may be a restore that has yet to bring the webhook.)
Whatever is recorded as delivered, to whichever webhook, must have arrived as
well.  A conversation has one session, which goes on with it after a crash, so the order of its events is that
of their numbers.

The choices are those of the seed; how they fall between the steps of the
server's processes is not, so a run is not repeated by its seed to the letter.

=cut

package Chaos;

use strict;
use warnings;

use Chatwebhook;
use Exporter qw(import);
use POSIX qw(WNOHANG);
use PostgreSQL::Test::Utils;
use Test::More;
use Time::HiRes qw(sleep time);

our @EXPORT = qw(run_chaos);

# Emitting sessions, what each emits a second, and its conversations.
my $sessions = 4;
my $rate = 125;
my $conversations = 12;

# The share of the time in which processes are ended.
my $deadly = 0.4;

# Requests that were answered well: a success, though the connection ends in
# spite of what it says; one for which the receiver was told so; and what hung,
# which may have been answered in time.
my $answered = qr{"path": "/(?:ok|delay-ms|stale|hang-until-told)/|"path": "/down-until-told/.*"up": true};

# A worker's own memory may grow by so much from its first minute to its last.
my $growth_kb = 4096;

# Webhooks that stay.  Those with a path that can be told go by what the
# receiver is told; the others have their URL changed.  None fails the first
# request of every event, as /flaky would: that keeps the breaker open.
my %webhooks = (
	kept => { path => '/ok', ordered => 't', events => ['chaos.often'], max_in_flight => 64 },
	told => { path => '/down-until-told', ordered => 't', events => ['chaos.seldom'] },
	hung => { path => '/hang-until-told', ordered => 't', events => ['chaos.rare'] },
	free => { path => '/ok', events => [ 'chaos.often', 'chaos.rare' ] },
	late => { path => '/delay-ms/20', events => ['chaos.rare'] },
	many => { path => '/ok', events => [ 'chaos.often', 'chaos.rare' ], batch_size => 20, batch_window => '100 ms' },
	row => { path => '/ok', ordered => 't', events => ['chaos.often'], max_in_flight => 64, batch_size => 8 },
	heap => { path => '/down-until-told', ordered => 't', events => ['chaos.seldom'], batch_size => 50, batch_window => '300 ms' },
	lump => { path => '/hang-until-told', events => ['chaos.seldom'], batch_size => 100 });
my @told = grep { $webhooks{$_}{path} =~ /-until-told/ } sort keys %webhooks;
my @moved = grep { $webhooks{$_}{path} !~ /-until-told/ } sort keys %webhooks;
my @batched = grep { $webhooks{$_}{batch_size} } sort keys %webhooks;

# How long an endpoint may take, and how long a slow one takes.
my $timeout = scaled(1);
my $slow = 2 * $timeout;

# Where requests go wrong in one way or another, but not for good.
my @faults = (
	'/hang', '/reset', '/reset-mid-body', '/eof', '/garbage', '/stale',
	'/status/500', '/status/429?retry_after=1', "/slow-body/$slow",
	"/slow-headers/$slow", "/slow-read/$slow", '/interim/0', '/endless?every=0.1');

my %policy = (
	max_retries => 100,
	backoff => '50 ms',
	max_backoff => '500 ms',
	timeout => "$timeout s");

my $schema = q{
	INSERT INTO chatwebhook.event_type (name) VALUES ('chaos.often'), ('chaos.seldom'), ('chaos.rare');

	CREATE TABLE emitted (n bigint PRIMARY KEY, conversation text, type text, webhooks text[]);

	CREATE FUNCTION wanting() RETURNS text[] LANGUAGE sql VOLATILE AS $$
		SELECT coalesce(array_agg(name || '/' || xmin ORDER BY name), '{}') FROM chatwebhook.webhook
		 WHERE enabled AND updated_at < clock_timestamp() - interval '2 s'
	$$;

	CREATE PROCEDURE emit_for(session int, run int, seconds float8, rate float8, conversations int)
	LANGUAGE plpgsql AS $$
	DECLARE
		started timestamptz := clock_timestamp();
		base bigint := (session * 1000 + run) * 1000000::bigint;
		i int := 0;
		first int;
		before text[];
		late float8;
	BEGIN
		WHILE clock_timestamp() < started + seconds * interval '1 s' LOOP
			first := i;
			before := wanting();
			FOR j IN 1 .. CASE WHEN random() < 0.1 THEN 5 ELSE 1 END LOOP
				INSERT INTO emitted VALUES (base + i, session || '-' || i % conversations,
					CASE WHEN random() < 0.6 THEN 'chaos.often' WHEN random() < 0.75 THEN 'chaos.seldom' ELSE 'chaos.rare' END);
				PERFORM chatwebhook.emit(type, 'bot', conversation, jsonb_build_object('n', n))
				   FROM emitted WHERE n = base + i;
				i := i + 1;
			END LOOP;
			UPDATE emitted SET webhooks = ARRAY(
				SELECT split_part(w, '/', 1) FROM unnest(before) w INTERSECT
				SELECT split_part(w, '/', 1) FROM unnest(wanting()) w WHERE w = ANY (before))
			 WHERE n BETWEEN base + first AND base + i - 1;
			IF random() < 0.05 THEN
				ROLLBACK;
			ELSE
				COMMIT;
			END IF;
			late := extract(epoch FROM clock_timestamp() - started) - i / rate;
			IF late < 0 THEN
				PERFORM pg_sleep(-late);
			END IF;
		END LOOP;
	END
	$$;
};

my ($node, $receiver, $started, $ends);
my (%emitters, %runs, @heal, %done, %memory);
my $guests = 0;

# Run SQL, again if the server is just not there.
sub query
{
	my ($sql) = @_;
	my $deadline = time + $PostgreSQL::Test::Utils::timeout_default;

	while (1)
	{
		my ($rc, $out, $err) = eval { $node->psql('postgres', $sql) };
		# psql that cannot connect can have ended before it is given the SQL
		die $@ if !defined $rc && $@ !~ /Broken pipe/;
		$rc //= 2;
		return $out if $rc == 0;
		die "$sql: " . ($err // 'psql cannot connect') . "\n" if $rc != 2 || time > $deadline;
		sleep 0.1;
	}
}

sub one_of
{
	return $_[ int rand @_ ];
}

=head2 Emitting

=cut

sub start_emitter
{
	my ($session) = @_;
	my $run = ++$runs{$session};
	my $seconds = $ends - time;
	my $pid = fork // die "could not fork: $!";

	if ($pid == 0)
	{
		open STDOUT, '>', '/dev/null';
		open STDERR, '>>', "$PostgreSQL::Test::Utils::log_path/chaos_emitters.log";
		exec $node->installed_command('psql'), '-XAtq', '-d' => $node->connstr('postgres'),
		  '-c' => sprintf('SELECT setseed(%f)', ($session * 1000 + $run) / 1e6),
		  '-c' => "CALL emit_for($session, $run, $seconds, $rate, $conversations)"
		  or POSIX::_exit(1);
	}
	$emitters{$session} = $pid;
}

# Sessions whose server was taken from them begin again.
sub keep_emitting
{
	foreach my $session (1 .. $sessions)
	{
		next if $emitters{$session} && waitpid($emitters{$session}, WNOHANG) == 0;
		delete $emitters{$session};
		start_emitter($session) if $ends - time > 0.5;
	}
	return scalar keys %emitters;
}

=head2 What goes wrong

=cut

# Do it when that time has come.
sub later
{
	my ($seconds, $what) = @_;
	push @heal, [ time + $seconds, $what ];
}

sub set_path
{
	my ($name, $path) = @_;
	my ($plain, $query) = $path =~ /^([^?]*)(.*)$/;
	my $url = $receiver->url("$plain/-/$name$query");
	query("UPDATE chatwebhook.webhook SET url = '$url' WHERE name = '$name'");
}

sub reload_with
{
	my ($setting, $value) = @_;
	query("ALTER SYSTEM SET chatwebhook.$setting = '$value'");
	query('SELECT pg_reload_conf()');
}

sub worker_pids
{
	return split /\n/, query('SELECT pid FROM chatwebhook.worker_status');
}

my %deadly = (
	'worker ended' => [ 6, sub {
		my $pid = one_of(worker_pids()) // return;
		query("SELECT pg_terminate_backend($pid)");
	} ],
	'worker killed' => [ 3, sub {
		my $pid = one_of(worker_pids()) // return;
		kill 'KILL', $pid;
	} ],
	'launcher ended' => [ 1, sub {
		query(q{SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE backend_type = 'chatwebhook launcher'});
	} ],
	'server stopped' => [ 2, sub {
		$node->stop('immediate');
		$node->start;
	} ]);

my %harmful = (
	'endpoint broken' => [ 6, sub {
		my $name = one_of(@moved);
		set_path($name, one_of(@faults));
		later(1 + rand 2, sub { set_path($name, $webhooks{$name}{path}) });
	} ],
	'endpoint down' => [ 4, sub {
		my $name = one_of(@told);
		$receiver->set(down => [$name]);
		later(1 + rand 2, sub { $receiver->set(up => [$name]) });
	} ],
	'webhook disabled' => [ 3, sub {
		my $name = one_of(sort(keys %webhooks), map { "guest$_" } 1 .. $guests);
		query("UPDATE chatwebhook.webhook SET enabled = false WHERE name = '$name'");
		later(0.2 + rand 2, sub { query("UPDATE chatwebhook.webhook SET enabled = true WHERE name = '$name'") });
	} ],
	'webhook inserted' => [ 2, sub {
		my $name = 'guest' . ++$guests;
		my $url = $receiver->url("/ok/-/$name");
		my $ordered = one_of('true', 'false');
		my $batch_size = one_of(1, 10);
		query("INSERT INTO chatwebhook.webhook (name, url, events, ordered, max_retries, batch_size)
			SELECT '$name', '$url', '{chaos.seldom}', $ordered, 100, $batch_size
			 WHERE NOT EXISTS (SELECT FROM chatwebhook.webhook WHERE name = '$name')");
	} ],
	# more often than one comes, but not the last one
	'webhook deleted' => [ 3, sub {
		query(q{DELETE FROM chatwebhook.webhook WHERE id IN (SELECT id FROM chatwebhook.webhook
			WHERE name LIKE 'guest%' ORDER BY created_at DESC OFFSET 1 LIMIT 1)});
	} ],
	'batches changed' => [ 2, sub {
		my $name = one_of(@batched);
		my $size = one_of(1, 5, 30, 100);
		my $window = one_of('0', '100 ms', '1 s');
		query("UPDATE chatwebhook.webhook SET batch_size = $size, batch_window = '$window' WHERE name = '$name'");
	} ],
	'settings reloaded' => [ 4, sub {
		reload_with(@{ one_of(
				(map { [ workers => $_ ] } 1, 2, 3),
				(map { [ max_in_flight => $_ ] } 8, 64, 256),
				[ poll_interval => '200ms' ], [ poll_interval => '1h' ],
				[ log_attempts => 'all' ], [ log_attempts => 'none' ]) });
	} ],
	'switched off' => [ 1, sub {
		reload_with(enabled => 'off');
		later(0.2 + rand 1, sub { reload_with(enabled => 'on') });
	} ]);

# One of them, by their weights.
sub choose
{
	my (%what) = @_;
	my @names = map { ($_) x $what{$_}[0] } sort keys %what;
	my $name = one_of(@names);
	$done{$name}++;
	$what{$name}[1]->();
}

# Note how much memory the workers have of their own, once a second or so.
sub weigh_workers
{
	foreach my $pid (worker_pids())
	{
		open my $status, '<', "/proc/$pid/status" or next;
		my ($kb) = join('', <$status>) =~ /^RssAnon:\s+(\d+)/m or next;
		my $of = $memory{$pid} //= { since => time };
		$of->{first_kb} //= $kb;
		my $minute = int((time - $of->{since}) / 60);
		$of->{minutes}[ $minute - 1 ] //= $kb if $minute > 0;
		$of->{last_kb} = $kb;
		$of->{last_at} = time;
	}
}

sub make_chaos
{
	my $next_deadly = time + 1 + rand 2;
	my $next_harmful = time + rand 1;
	my $next_weighing = time;
	my $deadly_until = $started + $deadly * ($ends - $started);

	while (keep_emitting() > 0)
	{
		if (time > $next_deadly && time < $deadly_until)
		{
			choose(%deadly);
			$next_deadly = time + 0.5 + rand 3;
		}
		if (time > $next_harmful && time < $ends)
		{
			choose(%harmful);
			$next_harmful = time + 0.1 + rand 0.8;
		}
		if (time > $next_weighing)
		{
			weigh_workers();
			$next_weighing = time + 1;
		}
		# one time for both: what came due in between would be lost
		my $now = time;
		my @due = grep { $_->[0] <= $now } @heal;
		@heal = grep { $_->[0] > $now } @heal;
		$_->[1]->() foreach @due;
		sleep 0.05;
	}
	$_->[1]->() foreach @heal;
	@heal = ();
	reload_with(workers => 2);
	reload_with(max_in_flight => 256);
}

=head2 The account

=cut

# Requests that were answered, by webhook and number, and what was out of order
# or unheard of.
sub read_requests
{
	my ($emitted, $ordered) = @_;
	my (%seen, %answered, %last);
	my %sum = (requests => 0, batches => 0, events => 0, repeats => 0, disordered => 0, strange => 0);

	open my $log, '<', $receiver->log_file or die "could not open the log: $!";
	while (my $line = <$log>)
	{
		next if $line =~ /"complete": false/;
		my ($label) = $line =~ /"label": "(\w+)"/;
		my @numbers = $line =~ /\\"n\\":(\d+)/g;
		$sum{requests}++;
		$sum{batches}++ if @numbers > 1;
		$sum{strange}++ if !@numbers;
		foreach my $n (@numbers)
		{
			my $conversation = $emitted->{$n}[0];
			$sum{events}++;
			if (!defined $conversation)
			{
				$sum{strange}++;
				next;
			}
			if ($seen{$label}{$n}++)
			{
				$sum{repeats}++;
			}
			elsif ($ordered->{$label})
			{
				# the one before has been sent, and need not be sent again; it
				# was not in this batch, where it would not have been answered yet
				my $last = \$last{$label}{$conversation};
				$sum{disordered}++ if defined $$last && ($n < $$last || !$answered{$label}{$$last});
				$$last = $n;
			}
		}
		if ($line =~ $answered)
		{
			$answered{$label}{$_} = 1 foreach @numbers;
		}
	}
	return (\%answered, \%sum);
}

sub judge
{
	my %events;
	my %ordered;
	foreach (split /\n/, query(q{SELECT name, events, ordered FROM chatwebhook.webhook}))
	{
		my ($name, $types, $ordered) = split /\|/;
		$events{$name} = $types;
	}
	# those that are gone are still to have kept the order
	%ordered = map { $_ => 1 } split /\n/, query(q{SELECT name FROM was_ordered});
	my %emitted;
	foreach (split /\n/, query(q{SELECT n, conversation, type, array_to_string(webhooks, ',') FROM emitted}))
	{
		my ($n, @rest) = split /\|/, $_, -1;
		$emitted{$n} = \@rest;
	}
	my ($answered, $sum) = read_requests(\%emitted, \%ordered);

	my ($owed, $lost) = (0, 0);
	my @examples;
	foreach my $n (sort { $a <=> $b } keys %emitted)
	{
		my ($conversation, $type, $webhooks) = @{ $emitted{$n} };
		foreach my $name (split /,/, $webhooks)
		{
			next if !defined $events{$name} || $events{$name} !~ /\Q$type\E/;
			$owed++;
			next if $answered->{$name}{$n};
			$lost++;
			push @examples, "$n ($conversation, $type) at $name" if @examples < 5;
		}
	}
	diag("not answered: $_") foreach @examples;
	diag(sprintf '%d events committed, %d deliveries recorded, %d judged; %d requests, %d of them batches; %d events in them, %d of them repeats',
		scalar keys %emitted, query('SELECT count(*) FROM chatwebhook.delivery'), $owed,
		$sum->{requests}, $sum->{batches}, $sum->{events}, $sum->{repeats});
	cmp_ok($owed, '>', keys(%emitted) / 4, 'there is much to be judged');
	cmp_ok($sum->{batches}, '>', 0, 'some of it in batches');
	is($lost, 0, 'every event has arrived wherever it was wanted, and was answered');
	is($sum->{strange}, 0, 'nothing has arrived that was not committed');
	is($sum->{disordered}, 0, 'those of a conversation came in order, each when the one before was answered');

	my $recorded = 0;
	my $unheard = 0;
	foreach (split /\n/, query(q{SELECT d.webhook_name, e.data->>'n' FROM chatwebhook.delivery d
		  JOIN chatwebhook.event e ON e.id = d.event_id WHERE d.status = 'delivered'}))
	{
		my ($name, $n) = split /\|/;
		$recorded++;
		$unheard++ if !$answered->{$name}{$n};
	}
	cmp_ok($recorded, '>=', $owed, 'at least as much is recorded as delivered');
	is($unheard, 0, 'all of which has arrived, and was answered');

	my ($left, $orphans) = split /\|/, query(q{SELECT count(w.id), count(*) - count(w.id)
		  FROM chatwebhook.queue q LEFT JOIN chatwebhook.webhook w ON w.id = q.webhook_id});
	is($left, 0, 'nothing is left in the queue');
	cmp_ok($orphans, '<=', $sessions * ($done{'webhook deleted'} // 0),
		"but for events that were emitted while their webhook was deleted: $orphans");
	is(query(q{SELECT count(*) FROM chatwebhook.dead}), 0, 'nothing was given up');
	is(query(q{SELECT coalesce(sum(in_flight), 0) FROM chatwebhook._all_in_flight()}), 0, 'nothing is left claimed');
	is(query(q{SELECT sum(in_flight) FROM chatwebhook.worker_status}), 0, 'nothing is under way');
	is(query(q{SELECT count(*) FROM (SELECT FROM chatwebhook.delivery GROUP BY event_id, webhook_id HAVING count(*) > 1) d}),
		0, 'no delivery is recorded twice');
}

# Did any worker grow after its first minute?
sub judge_memory
{
	my $long = 0;
	foreach my $pid (sort { $memory{$a}{since} <=> $memory{$b}{since} } keys %memory)
	{
		my $of = $memory{$pid};
		my $lived = $of->{last_at} - $of->{since};
		next if $lived < 30;
		diag("worker $pid, " . int($lived) . ' s: own memory in kB at first, after each minute and at last: '
			  . join(', ', $of->{first_kb}, @{ $of->{minutes} // [] }, $of->{last_kb}));
		next if $lived < 90;
		$long++;
		cmp_ok($of->{last_kb} - $of->{minutes}[0], '<', $growth_kb, "worker $pid has not grown after its first minute");
	}
	return $long;
}

=head1 FUNCTIONS

=over

=item run_chaos(duration => $seconds, seed => $seed)

All of it, as tests.  The duration is that of the chaos; what is left then takes
a little longer.

=back

=cut

sub run_chaos
{
	my (%options) = @_;
	my $seed = $options{seed} // int rand 1e9;
	my $duration = $options{duration};

	srand $seed;
	diag("SEED=$seed DURATION=$duration");
	$receiver = start_receiver(args => ['--brief']);
	$receiver->set(up => \@told);
	$node = new_node('chaos', 'restart_after_crash' => 'on', 'chatwebhook.workers' => 2);
	query($schema);
	# which webhooks are ordered, remembered when they are gone
	query(q{CREATE TABLE was_ordered (name text PRIMARY KEY);
		CREATE FUNCTION note_ordered() RETURNS trigger LANGUAGE plpgsql AS
			$$BEGIN INSERT INTO public.was_ordered VALUES (NEW.name); RETURN NULL; END$$;
		CREATE TRIGGER note_ordered AFTER INSERT ON chatwebhook.webhook FOR EACH ROW WHEN (NEW.ordered)
			EXECUTE FUNCTION note_ordered()});
	create_webhook($node, name => $_, %policy, %{ $webhooks{$_} }) foreach sort keys %webhooks;

	$started = time;
	$ends = $started + $duration;
	make_chaos();
	diag(sprintf 'after %d s: %s', time - $started, join ', ', map { "$_: $done{$_}" } sort keys %done);
	my $backlog = query('SELECT count(*) FROM chatwebhook.queue');
	my $at = time;
	ok(wait_idle($node, timeout => $PostgreSQL::Test::Utils::timeout_default + $duration), 'once the faults are mended, all is finished');
	diag(sprintf 'a backlog of %d took %.1f s', $backlog, time - $at);
	weigh_workers();
	judge();
	my $long = judge_memory();
	cmp_ok($long, '>', 0, 'a worker has lived long enough to say') if $duration >= 240;
	$node->stop('fast');
	unlink $receiver->log_file if Test::More->builder->is_passing;
}

1;
