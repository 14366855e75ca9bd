# What the extension says of its webhooks, against what receivers saw of it.
#
# Only real requests can show that every figure of a webhook's health is the one
# that the receiver counts, that an alert opens when an endpoint goes down and
# closes when it is back, once each, and that it reaches others but never the
# webhook that it is about.

use strict;
use warnings;

use FindBin;
use lib "$FindBin::Bin/../lib";

use Chatwebhook;
use List::Util qw(max sum0);
use JSON::PP ();
use POSIX qw(ceil);
use PostgreSQL::Test::Utils;
use Session;
use Test::More;

my $services = start_services();
my $receiver = start_receiver();
my $node = new_node(
	'main',
	'chatwebhook.log_attempts' => 'all',
	'chatwebhook.breaker_threshold' => 0);
my $json = JSON::PP->new->utf8;

# A setting that the worker has, too.
sub set
{
	my ($name, $value) = @_;
	sql("ALTER SYSTEM SET chatwebhook.$name = '$value'");
	$node->reload;
	wait_until("SELECT current_setting('chatwebhook.$name') = '$value'")
	  or die "chatwebhook.$name is not changed\n";
	return;
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
		max_backoff => '10 ms',
		max_retries => 0,
		%columns);
	return $id;
}

sub emit
{
	my ($chatbot, $n, $type) = @_;
	$n //= 1;
	$type //= 'conversation.ended';
	sql("SELECT chatwebhook.emit('$type', '$chatbot', NULL, '{}') FROM generate_series(1, $n)");
	return;
}

# Emit, and wait until those are settled.
sub send_all
{
	my ($chatbot, $n) = @_;
	my $total = sql("SELECT total FROM chatwebhook.webhook_health WHERE name = '$chatbot'") + $n;
	emit($chatbot, $n);
	wait_until("SELECT total = $total FROM chatwebhook.webhook_health WHERE name = '$chatbot'")
	  or die "$chatbot has not made $total attempts\n";
	return;
}

# The alerts on a webhook, a line for each.
sub alerts
{
	my ($name, $kind) = @_;
	my $only = defined $kind ? "AND kind = '$kind'" : '';
	return sql(qq{SELECT kind, CASE WHEN closed_at IS NULL THEN 'open' ELSE 'closed' END
		FROM chatwebhook.alert WHERE webhook_name = '$name' $only ORDER BY kind, opened_at});
}

sub opens
{
	my ($name, $kind, $what) = @_;
	local $Test::Builder::Level = $Test::Builder::Level + 1;
	return becomes_true(qq{SELECT EXISTS (SELECT FROM chatwebhook.alert
		WHERE webhook_name = '$name' AND kind = '$kind' AND closed_at IS NULL)}, $what);
}

sub closes
{
	my ($name, $kind, $what) = @_;
	local $Test::Builder::Level = $Test::Builder::Level + 1;
	return becomes_true(qq{SELECT count(*) > 0 AND bool_and(closed_at IS NOT NULL) FROM chatwebhook.alert
		WHERE webhook_name = '$name' AND kind = '$kind'}, $what);
}

# Wait until the worker has looked at the alerts of all webhooks whose attempts are
# settled by now: it does so in the order of their settles, and opens one last of
# all on a webhook that is made for this.
my $markers = 0;

sub alerts_are_checked
{
	my $name = 'marker ' . ++$markers;
	webhook($name, '/status/500', events => ['test.marker']);
	emit($name, sql('SHOW chatwebhook.alert_failures'), 'test.marker');
	wait_until(qq{SELECT EXISTS (SELECT FROM chatwebhook.alert WHERE webhook_name = '$name' AND kind = 'consecutive_failures')})
	  or die "no alert on $name\n";
	sql("DELETE FROM chatwebhook.webhook WHERE name = '$name'");
	return;
}

# webhook.alert about a webhook, as a subscriber got it.
sub told
{
	my ($subscriber, $about) = @_;
	return grep { $_->{type} eq 'webhook.alert' && $_->{data}{webhookName} eq $about }
	  map { $json->decode($_->{body}) =~ /HASH/ ? $json->decode($_->{body}) : () }
	  $receiver->log($subscriber);
}

#
# Every figure, recomputed.
#
sql(q{INSERT INTO chatwebhook.event_type (name) VALUES ('test.marker'), ('test.mutual')});
my $rude = start_receiver();	# breaks off; no idle connection leads to it
$Chatwebhook::last_receiver = $receiver;
set('alert_success_rate', 0);
set('alert_failures', 0);

# What the receiver is told to reply, one after another: more than the last 100.
srand 62;
my @script = map { (200, 201, 204, 500, 400, 404, 503, 200, 200)[ rand 9 ] } 1 .. 140;
push @script, 200, 500, 502, 400;
my %mixture = (
	scripted => [ '/scripted', scalar @script, { max_in_flight => 1 } ],
	flaky => [ '/flaky/2', 5, { max_in_flight => 1, max_retries => 3 } ],
	slow => [ '/delay-ms/120', 6, {} ],
	hang => [ '/hang', 2, { timeout => scaled(2) . ' s', max_retries => 1 } ],
	eof => [ '/eof', 3, { receiver => $rude } ],
	fast => [ '/ok', 40, {} ],
	idle => [ '/ok', 0, {} ]);

# Whether each request of a webhook succeeded, by what is known of its path, in
# the order of the receiver's log.
sub outcomes
{
	my ($name) = @_;
	my @requests = ($mixture{$name}[2]{receiver} // $receiver)->log($name);
	my (@outcomes, %tries);

	foreach my $n (0 .. $#requests)
	{
		push @outcomes,
		    $name eq 'scripted' ? $script[$n] < 300
		  : $name eq 'flaky' ? ++$tries{ $requests[$n]{headers}{'webhook-id'} } > 2
		  : $name =~ /hang|eof/ ? 0
		  : 1;
	}
	return (\@requests, @outcomes);
}

subtest 'figures' => sub {
	my @bounds = (5, 10, 25, 50, 100, 250, 500, 1000, 2500, 5000, 10000);
	my %all = (succeeded => 0, failed => 0, given_up => 0);

	$receiver->set(replies => { scripted => [ map { { status => $_ } } @script ] });
	webhook($_, $mixture{$_}[0], %{ $mixture{$_}[2] }) foreach sort keys %mixture;
	emit($_, $mixture{$_}[1]) foreach sort keys %mixture;
	ok(wait_idle($node), 'all is done');
	wait_until(q{SELECT sum(total) = (SELECT count(*) FROM chatwebhook.attempt) FROM chatwebhook.health});

	foreach my $name (sort keys %mixture)
	{
		my ($requests, @outcomes) = outcomes($name);
		my $successes = grep { $_ } @outcomes;
		my $streak = 0;
		$streak = $_ ? 0 : $streak + 1 foreach @outcomes;
		my @last = @outcomes > 100 ? @outcomes[ -100 .. -1 ] : @outcomes;
		my ($total, $succeeded, $failed, $in_row, $rate, $average, $p95, $success_at,
			$failure_at, $state, $pending, $in_flight, $dead) = split /\|/, sql(qq{
			SELECT total, successes, failures, consecutive_failures, success_rate, avg_latency_ms,
				p95_latency_ms, extract(epoch FROM last_success_at),
				extract(epoch FROM last_failure_at), state, pending, in_flight, dead
			FROM chatwebhook.webhook_health WHERE name = '$name'}), -1;

		is("$total $succeeded $failed",
			@outcomes . " $successes " . (@outcomes - $successes),
			"$name: total, successes, failures");
		is($in_row, $streak, "$name: failures in a row");
		is($rate, @last ? sprintf('%.4f', (grep { $_ } @last) / @last) : '',
			"$name: success rate of the last 100");
		is($state,
			!@outcomes ? 'idle' : $streak ? 'degraded' : 'healthy',
			"$name: state");
		is("$pending $in_flight", '0 0', "$name: nothing is pending");

		# each attempt's row: when it began, what it took, how it ended
		my %attempt;
		my @attempts;
		foreach my $row (split /\n/, sql(qq{
			SELECT delivery_id || '/' || attempt, extract(epoch FROM started_at), latency_ms, error IS NULL
			FROM chatwebhook.attempt a JOIN chatwebhook.webhook w ON w.id = a.webhook_id
			WHERE w.name = '$name' ORDER BY started_at}))
		{
			my ($key, $start, $ms, $ok) = split /\|/, $row;
			my $attempt = { start => $start, ms => $ms, ok => $ok eq 't', end => $start + $ms / 1000 };
			$attempt{$key} = $attempt;
			push @attempts, $attempt;
		}
		is(@attempts, @outcomes, "$name: as many attempts as requests");
		my @ms = sort { $a <=> $b } map { $_->{ms} } @attempts > 100 ? @attempts[ -100 .. -1 ] : @attempts;
		if (@ms)
		{
			cmp_ok(abs($average - sum0(@ms) / @ms), '<', 0.0501, "$name: average latency");
			is($p95, $ms[ ceil(0.95 * @ms) - 1 ], "$name: 95th percentile");
		}
		else
		{
			is("$average $p95", ' ', "$name: no latency");
		}
		my @counts = (0) x 12;
		foreach my $attempt (@attempts)
		{
			my $i = 0;
			$i++ while $i < @bounds && $attempt->{ms} > $bounds[$i];
			$counts[$i]++;
		}
		is(sql(qq{SELECT latency_counts, latency_sum_ms, given_up FROM chatwebhook.health h
				JOIN chatwebhook.webhook w ON w.id = h.webhook_id WHERE w.name = '$name'}),
			'{' . join(',', @counts) . '}|' . sum0(map { $_->{ms} } @attempts) . "|$dead",
			"$name: latencies by length, their sum, and what was given up");

		# the receiver's own times; the worker notes the beginning, and then begins
		# as soon as the machine lets it
		my @outside;
		foreach my $n (0 .. $#$requests)
		{
			my $request = $requests->[$n];
			my $attempt = $attempt{ $request->{headers}{'x-webhook-delivery'} . '/'
				  . $request->{headers}{'x-webhook-attempt'} };
			push @outside, $n
			  if !$attempt
			  || $request->{time} < $attempt->{start} - 0.005
			  || $request->{time} > $attempt->{end} + scaled(5)
			  || $attempt->{ok} != $outcomes[$n];
		}
		is("@outside", '', "$name: the requests came while their attempts were made, and ended so");
		foreach my $which ([ 1, $success_at ], [ 0, $failure_at ])
		{
			my ($ok, $at) = @$which;
			my $end = max(map { $_->{end} } grep { $_->{ok} == $ok } @attempts);
			my $what = $ok ? 'success' : 'failure';
			# the worker notes it after the end, as soon as it comes to that
			defined $end
			  ? ok($at > $end - 0.005 && $at < $end + scaled(10), "$name: when the last $what ended")
			  : is($at, '', "$name: there was no $what");
		}
		$all{succeeded} += $successes;
		$all{failed} += @outcomes - $successes;
		$all{given_up} += $dead;
	}
	cmp_ok(sql(q{SELECT min(latency_ms) FROM chatwebhook.attempt a JOIN chatwebhook.webhook w
			ON w.id = a.webhook_id WHERE w.name = 'slow'}), '>=', 120, 'slow: no sooner than it was answered');
	is( sql(q{SELECT sum(succeeded), sum(failed), sum(given_up),
			bool_and(extract(epoch FROM since)::bigint % 600 = 0), max(since) <= now() FROM chatwebhook.activity}),
		"$all{succeeded}|$all{failed}|$all{given_up}|t|t",
		'the activity adds up to the same');
	is(alerts('hang'), '', 'alert_failures = 0 and alert_success_rate = 0 mean no alerts');
};

#
# Down and back.
#
set('alert_failures', 5);
my $known = $services->credentials('pagerduty');
my ($pager) = create_webhook(
	$node,
	name => 'pager',
	url => $services->url('/pagerduty/v2/enqueue'),
	connector => 'pagerduty',
	auth => { type => 'body', name => 'routing_key', value => '{{routing_key}}' },
	backoff => '10 ms',
	events => ['webhook.alert']);
sql("SELECT chatwebhook.set_credential('$pager', 'routing_key', '$known->{routing_key}')");
webhook('listener', '/ok', chatbot_id => undef, events => ['webhook.alert']);

subtest 'an endpoint goes down and comes back' => sub {
	webhook('down', '/down-until-told', max_retries => 100, backoff => '50 ms', max_backoff => '50 ms');
	emit('down', 2);
	opens('down', 'consecutive_failures', 'five failures in a row open an alert');
	cmp_ok($receiver->count('down'), '>=', 5, 'not fewer');
	is(sql(q{SELECT state FROM chatwebhook.webhook_health WHERE name = 'down'}),
		'failing', 'and the webhook is failing');
	ok($services->wait_for(1, 'pagerduty'), 'PagerDuty hears of it');
	ok($receiver->wait_for($receiver->count('down') + 20, 'down'), 'it goes on failing');
	$receiver->set(up => ['down']);
	closes('down', 'consecutive_failures', 'the first success closes it');
	ok($services->wait_for(2, 'pagerduty'), 'PagerDuty hears of that, too');
	send_all('down', 10);
	ok(wait_idle($node), 'all is done');

	is(alerts('down'), 'consecutive_failures|closed', 'one alert, of which one is closed');
	is(sql(q{SELECT opened_at < closed_at AND message ~ '^the last \d+ attempts failed$'
			FROM chatwebhook.alert WHERE webhook_name = 'down'}), 't', 'with its times and its message');
	my $id = sql(q{SELECT id FROM chatwebhook.alert WHERE webhook_name = 'down'});
	my @told = told('listener', 'down');
	is(join(' ', map { "$_->{data}{state} $_->{data}{alertId} $_->{data}{kind}" } @told),
		"opened $id consecutive_failures closed $id consecutive_failures",
		'a subscriber was told twice');
	my @paged = @{ $services->state('pagerduty')->{events} };
	is(join(' ', map { $_->{event_action} } @paged), 'trigger resolve', 'PagerDuty got a trigger and a resolve');
	is($paged[0]{dedup_key}, $paged[1]{dedup_key}, 'with the same dedup key');
	is($services->state('pagerduty')->{alerts}[0]{status}, 'resolved', 'the incident is resolved');
	is(scalar told('down', 'down'), 0, 'the webhook itself was told nothing, though it wants all events');
};

subtest 'one that comes and goes' => sub {
	webhook('flapping', '/scripted');
	$receiver->set(replies => { flapping => [ { status => 500 } ] });
	send_all('flapping', 5);
	opens('flapping', 'consecutive_failures', 'it goes down');
	$receiver->set(replies => { flapping => [ { status => 200 } ] });
	send_all('flapping', 1);
	closes('flapping', 'consecutive_failures', 'it is back');
	# the minute is not to end by itself
	sql(q{UPDATE chatwebhook.alert SET closed_at = closed_at + interval '1 hour' WHERE webhook_name = 'flapping'});
	$receiver->set(replies => { flapping => [ { status => 500 } ] });
	send_all('flapping', 8);
	alerts_are_checked();
	is(alerts('flapping'), 'consecutive_failures|closed', 'within a minute of the end no alert opens again');
	set('alert_success_rate', 0.9);
	send_all('flapping', 6);
	alerts_are_checked();
	is(alerts('flapping'), "consecutive_failures|closed\nlow_success_rate|open", 'but one of another kind does');
	set('alert_success_rate', 0);
	sql(q{UPDATE chatwebhook.alert SET closed_at = closed_at - interval '2 hours' WHERE webhook_name = 'flapping'});
	send_all('flapping', 1);
	opens('flapping', 'consecutive_failures', 'after a minute it opens again');
	$receiver->set(replies => { flapping => [ { status => 200 } ] });

	# somebody has locked the alert's row just when it is to be closed
	my $session = $node->background_psql('postgres');
	my $offset = -s $node->logfile;
	$session->query_safe(q{BEGIN});
	$session->query_safe(q{SELECT id FROM chatwebhook.alert WHERE webhook_name = 'flapping' FOR UPDATE});
	send_all('flapping', 1);
	$node->wait_for_log(qr/canceling statement due to lock timeout/, $offset);
	$session->query_safe(q{COMMIT});
	$session->quit;
	closes('flapping', 'consecutive_failures', 'it closes though somebody had locked its row');
};

subtest 'no loop and no storm' => sub {
	set('alert_success_rate', 0.9);
	webhook("mutual_$_", '/status/500',
		chatbot_id => undef, max_retries => 5, events => [ 'webhook.alert', 'test.mutual' ])
	  foreach 1, 2;
	sql(q{SELECT chatwebhook.emit('test.mutual', NULL, NULL, '{}')});
	opens("mutual_$_", 'consecutive_failures', "webhook $_ is down") foreach 1, 2;
	ok(wait_idle($node), 'all is done');
	sql(q{SELECT chatwebhook.emit('test.mutual', NULL, NULL, '{}') FROM generate_series(1, 10)});
	opens("mutual_$_", 'low_success_rate', "and its rate is low") foreach 1, 2;
	ok(wait_idle($node), 'all is done');
	alerts_are_checked();
	ok(wait_idle($node), 'what came of that, too');
	is(sql(q{SELECT webhook_name, kind, count(*) FROM chatwebhook.alert
			WHERE webhook_name LIKE 'mutual%' GROUP BY 1, 2 ORDER BY 1, 2}),
		join("\n", map { ("mutual_$_|consecutive_failures|1", "mutual_$_|low_success_rate|1") } 1, 2),
		'each alert opened once');
	is(sql(q{SELECT count(*) FROM chatwebhook.event
			WHERE type = 'webhook.alert' AND data->>'webhookName' LIKE 'mutual%'}),
		4, 'and there is one event for each');
	foreach my $n (1, 2)
	{
		my @sent = grep { $_->{body} !~ /"webhookName":"marker/ } $receiver->log("mutual_$n");
		is(scalar @sent, 6 * 11, "webhook $n was sent what it wants, and no alerts, since it fails itself");
	}
	sql(q{DELETE FROM chatwebhook.webhook WHERE name LIKE 'mutual%'});
};

#
# The rate, with its hysteresis.
#
subtest 'a low success rate' => sub {
	webhook('rate', '/scripted', max_in_flight => 1);
	my $reply = sub {
		my ($status, $n) = @_;
		$receiver->set(replies => { rate => [ { status => $status } ] });
		send_all('rate', $n);
	};
	$reply->(200, 8);
	$reply->(500, 2);
	$reply->(200, 8);
	$reply->(500, 1);
	alerts_are_checked();
	is(alerts('rate'), '', 'fewer than 20 attempts say nothing');
	$reply->(500, 1);
	opens('rate', 'low_success_rate', '16 of 20 open an alert');
	is(sql(q{SELECT message FROM chatwebhook.alert WHERE webhook_name = 'rate'}),
		'only 80% of the last 20 attempts succeeded', 'which says so');
	$reply->(200, 40);
	alerts_are_checked();
	is(alerts('rate'), 'low_success_rate|open', '56 of 60, more than 90 %, do not close it');
	$reply->(200, 21);
	closes('rate', 'low_success_rate', '77 of 81, more than 95 %, do');
	# not because it was closed a moment ago
	sql(q{UPDATE chatwebhook.alert SET closed_at = closed_at - interval '2 minutes' WHERE webhook_name = 'rate'});
	$reply->(500, 2);
	alerts_are_checked();
	is(alerts('rate'), 'low_success_rate|closed', '77 of 83 do not open it again');

	webhook('off', '/status/500');
	send_all('off', 20);
	opens('off', 'low_success_rate', 'another one is open');
	set('alert_success_rate', 0);
	send_all('off', 1);
	closes('off', 'low_success_rate', 'alert_success_rate = 0 closes it');
	is(alerts('off', 'consecutive_failures'), 'consecutive_failures|open', 'and not the other kind');
	set('alert_failures', 0);
	send_all('off', 1);
	closes('off', 'consecutive_failures', 'alert_failures = 0 does that');
	set('alert_failures', 2);
	webhook('two', '/status/500');
	send_all('two', 1);
	alerts_are_checked();
	is(alerts('two'), '', 'with alert_failures = 2, one is not enough');
	send_all('two', 1);
	opens('two', 'consecutive_failures', 'and two are');
	set('alert_failures', 5);
};

#
# Disabled webhooks.
#
subtest 'disabled by 410' => sub {
	webhook('gone', '/scripted', max_in_flight => 1);
	$receiver->set(replies => { gone => [ { status => 410 } ] });
	emit('gone', 2);
	opens('gone', 'webhook_disabled', '410 disables the webhook, and an alert says so');
	is(sql(q{SELECT w.enabled, w.disabled_reason, h.state, a.message FROM chatwebhook.webhook w
			JOIN chatwebhook.webhook_health h ON h.webhook_id = w.id
			JOIN chatwebhook.alert a ON a.webhook_id = w.id WHERE w.name = 'gone'}),
		'f|the receiver answered 410 Gone|disabled|it was disabled: the receiver answered 410 Gone',
		'with the reason');
	# the claim of a settled delivery is released a moment after the commit
	becomes_true(q{SELECT pending = 1 AND in_flight = 0 FROM chatwebhook.webhook_health WHERE name = 'gone'},
		'what is pending waits');
	$receiver->set(replies => { gone => [ { status => 200 } ] });
	sql(q{UPDATE chatwebhook.webhook SET enabled = true WHERE name = 'gone'});
	is(alerts('gone'), 'webhook_disabled|closed', 'enabling it closes the alert');
	ok(wait_idle($node), 'what waited is delivered');
	is($receiver->count('gone'), 2, 'once');
	is(join(' ', map { $_->{data}{state} } told('listener', 'gone')), 'opened closed', 'a subscriber was told');

	# it is gone again within the minute, and nothing will be tried any more
	$receiver->set(replies => { gone => [ { status => 410 } ] });
	emit('gone', 1);
	becomes_true(q{SELECT NOT enabled FROM chatwebhook.webhook WHERE name = 'gone'}, 'disabled again');
	alerts_are_checked();
	sql(q{UPDATE chatwebhook.alert SET closed_at = closed_at - interval '2 minutes'
		WHERE webhook_name = 'gone' AND closed_at IS NOT NULL});
	opens('gone', 'webhook_disabled', 'somebody is told of that, after a minute at the latest');

	sql(q{UPDATE chatwebhook.webhook SET enabled = false WHERE name = 'fast'});
	alerts_are_checked();
	is(alerts('fast'), '', 'disabling one by hand is no reason for an alert');
	sql(q{UPDATE chatwebhook.webhook SET enabled = true WHERE name = 'fast'});
};

subtest 'disabled by disable_after' => sub {
	set('disable_after', '1s');
	webhook('hopeless', '/down-until-told', max_retries => 100, backoff => '50 ms', max_backoff => '50 ms');
	emit('hopeless', 1);
	opens('hopeless', 'webhook_disabled', 'nothing but failures disable the webhook');
	is(sql(q{SELECT enabled, disabled_reason FROM chatwebhook.webhook WHERE name = 'hopeless'}),
		'f|every attempt failed for 1s', 'with the reason');
	is(sql(q{SELECT extract(epoch FROM w.disabled_at - h.failing_since) > 1
			FROM chatwebhook.webhook w JOIN chatwebhook.health h ON h.webhook_id = w.id WHERE w.name = 'hopeless'}),
		't', 'not before the time is up');
	becomes_true(q{SELECT in_flight = 0 FROM chatwebhook.webhook_health WHERE name = 'hopeless'}, 'its last request ends');
	my $count = $receiver->count('hopeless');
	becomes_true(q{SELECT next_attempt_at < clock_timestamp() FROM chatwebhook.queue q
		JOIN chatwebhook.webhook w ON w.id = q.webhook_id WHERE w.name = 'hopeless'}, 'the next one would be due');
	send_all('fast', 1);
	is($receiver->count('hopeless'), $count, 'but another webhook is served, and nothing is sent any more');
	is(sql(q{SELECT pending FROM chatwebhook.webhook_health WHERE name = 'hopeless'}), 1, 'what is pending waits');

	my $enabled = sql(q{UPDATE chatwebhook.webhook SET enabled = true WHERE name = 'hopeless'
		RETURNING extract(epoch FROM clock_timestamp())});
	is(alerts('hopeless', 'webhook_disabled'), 'webhook_disabled|closed', 'enabling it closes the alert');
	becomes_true(q{SELECT NOT enabled FROM chatwebhook.webhook WHERE name = 'hopeless'}, 'it fails on');
	cmp_ok(sql(q{SELECT extract(epoch FROM disabled_at) FROM chatwebhook.webhook WHERE name = 'hopeless'}),
		'>', $enabled + 1, 'and had all of its time again');
	$receiver->set(up => ['hopeless']);
	sql(q{UPDATE chatwebhook.webhook SET enabled = true WHERE name = 'hopeless'});
	ok(wait_idle($node), 'it is delivered when the endpoint is back');
	closes('hopeless', $_, "$_ is closed") foreach 'webhook_disabled', 'consecutive_failures';
	is(sql(q{SELECT state, consecutive_failures FROM chatwebhook.webhook_health WHERE name = 'hopeless'}),
		'healthy|0', 'and it is healthy');
	set('disable_after', '5d');
};

# A webhook that recovers and fails again within one settle, which is what several
# settles become for as long as its row is locked.
subtest 'failing since the last success' => sub {
	webhook('relapsing', '/scripted', max_in_flight => 1);
	my $reply = sub {
		my ($status) = @_;
		$receiver->set(replies => { relapsing => [ { status => $status } ] });
	};
	my $health = q{FROM chatwebhook.health h JOIN chatwebhook.webhook w ON w.id = h.webhook_id WHERE w.name = 'relapsing'};
	$reply->(500);
	send_all('relapsing', 2);
	is(sql("SELECT h.failing_since < h.last_failure_at $health"), 't', 'it has been failing since the first of two failures');
	my $before = sql("SELECT h.failing_since $health");

	my $locker = Session->new($node, 'postgres') or die $Session::error;
	$locker->query("BEGIN; SELECT $health FOR UPDATE OF h");
	$reply->(200);
	emit('relapsing');
	becomes_true(q{SELECT count(*) = 1 FROM chatwebhook.history WHERE webhook_name = 'relapsing'}, 'it recovers');
	$reply->(500);
	emit('relapsing');
	becomes_true(q{SELECT count(*) = 3 FROM chatwebhook.dead WHERE webhook_name = 'relapsing'}, 'and fails again');
	is(sql("SELECT h.total, h.failing_since $health"), "2|$before", 'of which its health knows nothing yet');
	$locker->query('ROLLBACK');
	$locker->close;
	becomes_true("SELECT h.total = 4 $health", 'now it does');
	is(sql("SELECT h.consecutive_failures, h.failing_since = h.last_failure_at, h.failing_since > h.last_success_at $health"),
		'1|t|t', 'it has been failing since the failure after its recovery');
	sql(q{DELETE FROM chatwebhook.webhook WHERE name = 'relapsing'});
};

subtest 'not disabled with disable_after = -1' => sub {
	set('disable_after', '-1');
	set('alert_failures', 1);
	my @retries = (max_retries => 100, backoff => '1 s', max_backoff => '1 s');
	webhook('patient', '/down-until-told', @retries);
	emit('patient', 1);
	opens('patient', 'consecutive_failures', 'one fails');
	# as if it had done so for a year
	sql(q{UPDATE chatwebhook.health h SET failing_since = h.failing_since - interval '1 year'
		FROM chatwebhook.webhook w WHERE w.id = h.webhook_id AND w.name = 'patient'});
	# it fails all the time, so it is checked before one that begins to fail now
	webhook('witness', '/down-until-told', @retries);
	emit('witness', 1);
	opens('witness', 'consecutive_failures', 'alerts have been checked since');
	is(sql(q{SELECT enabled, disabled_reason IS NULL FROM chatwebhook.webhook WHERE name = 'patient'}),
		't|t', 'it is not disabled');

	set('disable_after', '5d');
	opens('patient', 'webhook_disabled', 'five days would have been enough');
	is(sql(q{SELECT enabled, disabled_reason FROM chatwebhook.webhook WHERE name = 'patient'}),
		'f|every attempt failed for 5d', 'with the reason');
	$receiver->set(up => [ 'patient', 'witness' ]);
	sql(q{UPDATE chatwebhook.webhook SET enabled = true WHERE name = 'patient'});
	ok(wait_idle($node), 'both are delivered when the endpoint is back');
	closes($_, 'consecutive_failures', "the alert on $_ is closed") foreach 'patient', 'witness';
	set('alert_failures', 5);
};

#
# A backlog.
#
subtest 'backlog' => sub {
	# sweeps look for backlogs, and nothing else does
	set('poll_interval', '200ms');
	webhook($_, '/hang-until-told', max_in_flight => 1, timeout => '5 minutes') foreach 'stuck', 'ancient';
	emit($_, 3) foreach 'stuck', 'ancient';
	sql(q{UPDATE chatwebhook.queue SET next_attempt_at = now() - interval '40 days'
		WHERE webhook_id = (SELECT id FROM chatwebhook.webhook WHERE name = 'ancient')});
	set('alert_backlog', '30d');
	opens('ancient', 'backlog', 'with alert_backlog = 30d what has been due for 40 days opens an alert');
	is(alerts('stuck'), '', 'and what is due now does not');
	set('alert_backlog', '0');
	closes('ancient', 'backlog', 'with 0 there is none');
	is(alerts('stuck'), '', 'neither');
	sql(q{DELETE FROM chatwebhook.webhook WHERE name = 'ancient'});
	set('alert_backlog', '1s');
	opens('stuck', 'backlog', 'what is due and not sent opens an alert');
	like(sql(q{SELECT message FROM chatwebhook.alert WHERE webhook_name = 'stuck'}),
		qr/^a delivery has been due for \d+ s$/, 'which says how long');
	webhook('next', '/hang-until-told', max_in_flight => 1, timeout => '5 minutes');
	emit('next', 2);
	opens('next', 'backlog', 'another one opens when they are looked at again');
	webhook('both', '/status/500', max_in_flight => 1, timeout => '5 minutes');
	send_all('both', 5);
	opens('both', 'consecutive_failures', 'one fails');
	my $hanging = $receiver->url('/hang-until-told/-/both');
	sql(qq{UPDATE chatwebhook.webhook SET url = '$hanging' WHERE name = 'both'});
	emit('both', 2);
	opens('both', 'backlog', 'it opens beside an alert of another kind');
	$receiver->set(up => [ 'stuck', 'next', 'both' ]);
	closes('stuck', 'backlog', 'it closes when that is sent');
	is(alerts('stuck'), 'backlog|closed', 'it opened once');
	is(join(' ', map { $_->{data}{state} } told('listener', 'stuck')), 'opened closed', 'a subscriber was told twice');

	webhook('waiting', '/status/500', max_retries => 5, backoff => '1 hour', max_backoff => '1 hour');
	send_all('waiting', 1);

	webhook('closed', '/hang-until-told', max_in_flight => 1, timeout => '5 minutes');
	emit('closed', 2);
	opens('closed', 'backlog', 'what came later, and is due, is a backlog');
	is(alerts('waiting'), '', 'what waits for its retry is none');

	# a customer can lock an alert's row, as by deleting the webhook in a transaction
	my $locker = Session->new($node, 'postgres') or die $Session::error;
	$locker->query(q{BEGIN; SELECT FROM chatwebhook.alert WHERE webhook_name = 'closed' FOR UPDATE});
	$receiver->set(up => ['closed']);
	becomes_true(q{SELECT pending = 0 FROM chatwebhook.webhook_health WHERE name = 'closed'}, 'an alert is to be closed, and locked');
	webhook('beside', '/hang-until-told', max_in_flight => 1, timeout => '5 minutes');
	emit('beside', 2);
	opens('beside', 'backlog', 'that holds up no other');
	is(alerts('closed'), 'backlog|open', 'it stays open');
	$locker->query('ROLLBACK');
	$locker->close;
	closes('closed', 'backlog', 'and closes when it can');
	webhook('reopened', '/hang-until-told', max_in_flight => 1, timeout => '5 minutes');
	emit('reopened', 2);
	opens('reopened', 'backlog', 'another backlog');
	set('alert_backlog', '0');
	closes('reopened', 'backlog', 'alert_backlog = 0 closes it');
	$receiver->set(up => [ 'beside', 'reopened' ]);
	sql(q{DELETE FROM chatwebhook.webhook WHERE name = 'waiting'});
	set('poll_interval', '1h');
};

#
# What must not harm an alert.
#
subtest 'alerts that cannot be emitted' => sub {
	my $broken = sub { webhook($_[0], '/status/500', max_retries => 5, backoff => '10 ms') };
	script(q{
		CREATE FUNCTION breaks(event jsonb, webhook jsonb, replies jsonb) RETURNS chatwebhook.request
			LANGUAGE plpgsql STABLE AS $$ BEGIN RAISE EXCEPTION 'it breaks'; END $$;
		INSERT INTO chatwebhook.connector (name, function) VALUES ('breaks', 'breaks')});
	webhook('breaking', '/ok', chatbot_id => undef, events => ['webhook.alert'], connector => 'breaks');
	webhook('filtering', '/ok', chatbot_id => undef, events => ['webhook.alert'],
		filter => 'strict $.data.message.no.such.key == 1 / 0');
	$broken->('bad_subscriber');
	emit('bad_subscriber', 1);
	opens('bad_subscriber', 'consecutive_failures', 'a subscriber that is broken does not keep an alert from opening');
	ok($receiver->wait_until(sub { told('listener', 'bad_subscriber') > 0 }), 'nor others from hearing of it');
	ok(wait_idle($node), 'all is done');
	is(sql(q{SELECT status FROM chatwebhook.delivery WHERE webhook_name = 'bad_subscriber'}), 'dead', 'and settled');

	script(q{DELETE FROM chatwebhook.webhook WHERE name IN ('breaking', 'filtering');
		DELETE FROM chatwebhook.event_type WHERE name = 'webhook.alert'});
	my $offset = -s $node->logfile;
	$broken->('no_type');
	emit('no_type', 1);
	opens('no_type', 'consecutive_failures', 'an event type that was deleted does not, either');
	ok(wait_idle($node), 'all is done');
	is(sql(q{SELECT status, attempts FROM chatwebhook.delivery WHERE webhook_name = 'no_type'}), 'dead|6', 'and settled');
	like(slurp_file($node->logfile, $offset), qr/could not emit webhook\.alert about webhook "no_type": unknown event type/,
		'the log says what is missing');
	sql(q{DELETE FROM chatwebhook.webhook WHERE name = 'no_type'});
	is(alerts('no_type'), 'consecutive_failures|closed', 'its webhook can be deleted');
	sql(q{INSERT INTO chatwebhook.event_type (name) VALUES ('webhook.alert')});
};

subtest 'alerts that a client opens' => sub {
	my $offset = -s $node->logfile;
	# what the session of a client that asks for everything shows it, and what is logged
	my $shows = sub {
		my ($statement, $logged, $what) = @_;
		unlike(($node->psql('postgres', "SET client_min_messages = log; $statement"))[2], qr/WARNING|alert/, "$what: the client sees nothing of it");
		like(slurp_file($node->logfile, $offset), $logged, "$what: the log has it");
		$offset = -s $node->logfile;
	};

	# without attempts, after which the worker would check it sooner or later
	my $quiet = webhook('quiet', '/ok');
	sql("UPDATE chatwebhook.health SET consecutive_failures = 5 WHERE webhook_id = '$quiet'");
	sql(q{DELETE FROM chatwebhook.event_type WHERE name = 'webhook.alert'});
	is(alerts('quiet'), '', 'there is no alert yet');
	$shows->(q{UPDATE chatwebhook.webhook SET enabled = false WHERE name = 'quiet'},
		qr/WARNING:  chatwebhook: alert about webhook "quiet" opened.*WARNING:  could not emit webhook\.alert about webhook "quiet"/s, 'opened');
	is(alerts('quiet'), 'consecutive_failures|open', 'it is open');
	my $locker = Session->new($node, 'postgres') or die $Session::error;
	$locker->query(q{BEGIN; SELECT FROM chatwebhook.alert WHERE webhook_name = 'quiet' FOR UPDATE});
	# only now, or a worker could close it
	set('alert_failures', 0);
	$shows->(q{UPDATE chatwebhook.webhook SET enabled = true WHERE name = 'quiet'},
		qr/WARNING:  could not check the alerts of webhook "quiet"/, 'locked');
	$locker->query('ROLLBACK');
	$locker->close;
	$shows->(q{DELETE FROM chatwebhook.webhook WHERE name = 'quiet'},
		qr/LOG:  chatwebhook: alert about webhook "quiet" closed.*WARNING:  could not emit webhook\.alert/s, 'closed');
	sql(q{INSERT INTO chatwebhook.event_type (name) VALUES ('webhook.alert')});
	set('alert_failures', 5);
};

subtest 'deleting a webhook with an alert' => sub {
	webhook('deleted', '/status/500');
	send_all('deleted', 5);
	opens('deleted', 'consecutive_failures', 'an alert is open');
	sql(q{DELETE FROM chatwebhook.webhook WHERE name = 'deleted'});
	is(alerts('deleted'), 'consecutive_failures|closed', 'it is closed with its webhook');
	ok($receiver->wait_until(sub { told('listener', 'deleted') == 2 }), 'a subscriber was told');
	is(join(' ', map { $_->{data}{state} } told('listener', 'deleted')), 'opened closed', 'of both');

	# opened by a session that does not see the deletion yet
	my $id = webhook('going', '/ok');
	sql("UPDATE chatwebhook.health SET consecutive_failures = 5 WHERE webhook_id = '$id'");
	my $deleter = Session->new($node, 'postgres') or die $Session::error;
	$deleter->query("BEGIN; DELETE FROM chatwebhook.webhook WHERE id = '$id'");
	sql("SELECT chatwebhook._check_alerts(ARRAY['$id'::uuid])");
	is(alerts('going'), 'consecutive_failures|open', 'an alert is opened while the webhook is deleted');
	$deleter->query('COMMIT');
	$deleter->close;
	$node->reload;	# so that the worker reads the whole queue, as it does every poll_interval
	closes('going', 'consecutive_failures', 'it is closed, too');
};

#
# Roles of applications.
#
subtest 'roles of applications' => sub {
	script(q{CREATE ROLE acme; CREATE ROLE other; CREATE ROLE watcher;
		SELECT chatwebhook.grant_app('acme'), chatwebhook.grant_app('other');
		GRANT pg_monitor TO watcher});
	webhook($_, '/status/500') foreach 'acme', 'other';
	foreach my $name ('acme', 'other')
	{
		send_all($name, 5);
		opens($name, 'consecutive_failures', "$name: an alert");
	}
	foreach my $role ('acme', 'other')
	{
		is(script("SET ROLE $role; SET chatwebhook.chatbot = '$role'; SELECT webhook_name, kind FROM chatwebhook.alert"),
			"$role|consecutive_failures", "$role sees its own alert only");
		is(script("SET ROLE $role; SET chatwebhook.chatbot = '$role'; SELECT name, state FROM chatwebhook.webhook_health"),
			"$role|failing", 'and its own webhook');
	}
	is(script('SET ROLE watcher; SELECT count(*) FROM chatwebhook.alert'),
		sql('SELECT count(*) FROM chatwebhook.alert'), 'pg_monitor sees all');
	like(($node->psql('postgres', q{SET ROLE acme; SET chatwebhook.chatbot = 'acme'; DELETE FROM chatwebhook.alert}))[2],
		qr/permission denied/, 'and an app removes none');
	is(scalar told('acme', 'other'), 0, 'nor is a customer told of others');
};

subtest 'what is due when a worker ends' => sub {
	# more than a worker checks at a time
	my $n = 100;
	set('alert_failures', 1);
	my $url = $receiver->url('/status/500/-/crowd');
	sql("SELECT count(chatwebhook.create_webhook('crowd ' || i, '$url', events => '{conversation.ended}', chatbot_id => 'crowd', max_retries => 0))
		FROM generate_series(1, $n) i");
	emit('crowd');
	becomes_true("SELECT count(*) = $n FROM chatwebhook.webhook_health WHERE name LIKE 'crowd %' AND failures = 1", 'all have failed');
	my $pid = sql('SELECT pid FROM chatwebhook.worker_status');
	sql("SELECT pg_terminate_backend($pid)");
	becomes_true("SELECT count(*) = 0 FROM pg_stat_activity WHERE pid = $pid", 'the worker has ended');
	is(sql(q{SELECT count(*) FROM chatwebhook.alert WHERE webhook_name LIKE 'crowd %' AND closed_at IS NULL}), $n,
		'and has opened an alert on each');
	sql(q{DELETE FROM chatwebhook.webhook WHERE chatbot_id = 'crowd'});
};

# over all: nobody was ever told of itself, and no alert was told twice
my %times;
foreach my $request (grep { defined $_->{body} && $_->{body} =~ /"webhook\.alert"/ } $receiver->log)
{
	my $event = $json->decode($request->{body});
	$times{own}++ if $event->{data}{webhookName} eq $request->{label};
	$times{"$request->{label} $event->{data}{alertId} $event->{data}{state}"}{ $event->{id} } = 1;
}
is($times{own} // 0, 0, 'no webhook was told of itself');
is(scalar(grep { ref && keys %$_ > 1 } values %times), 0, 'no alert was told twice');
is(scalar(grep { $_->{status} >= 300 } $services->log('pagerduty')), 0, 'PagerDuty refused nothing');

#
# Webhooks that all fail: each failure must not make an event for all others.
#
subtest 'many unreachable webhooks' => sub {
	my $n = 300;
	my $refused = $rude->url('/ok/-/unreachable');

	$rude->stop;
	set('alert_failures', 5);
	sql(q{INSERT INTO chatwebhook.event_type (name) VALUES ('webhook.alert') ON CONFLICT DO NOTHING});
	foreach my $case (
		# the alerts that a webhook can get: none, or what came before its own first
		# failure was known
		[ '{*}', 0 ],
		[ '{test.mutual,webhook.alert}', 10 * $n ])
	{
		my ($events, $most) = @$case;

		sql(qq{INSERT INTO chatwebhook.webhook (name, url, chatbot_id, events, max_retries, backoff, max_backoff)
			SELECT 'unreachable ' || n, '$refused', 'unreachable', '$events', 5, '10 ms', '10 ms' FROM generate_series(1, $n) AS n});
		sql(q{SELECT chatwebhook.emit('test.mutual', 'unreachable', NULL, '{}')});
		becomes_true(qq{SELECT count(*) = $n FROM chatwebhook.alert WHERE webhook_name LIKE 'unreachable %' AND kind = 'consecutive_failures'},
			"$events: each has its alert");
		is(sql(q{SELECT count(*) FROM chatwebhook.delivery WHERE chatbot_id = 'unreachable' AND event_type = 'test.mutual'}), $n,
			'each has its delivery');
		my $alerts = sql(q{SELECT count(*) FROM chatwebhook.delivery WHERE webhook_name LIKE 'unreachable %' AND event_type = 'webhook.alert'});
		note("$alerts deliveries of alerts");
		cmp_ok($alerts, '<=', $most, 'and no more alerts than that');
		sql(q{DELETE FROM chatwebhook.webhook WHERE chatbot_id = 'unreachable'});
		script(q{DELETE FROM chatwebhook.alert WHERE webhook_name LIKE 'unreachable %';
			DELETE FROM chatwebhook.event WHERE chatbot_id = 'unreachable';
			DELETE FROM chatwebhook.history WHERE chatbot_id = 'unreachable';
			DELETE FROM chatwebhook.dead WHERE chatbot_id = 'unreachable'});
	}
};

#
# Many versions of a row: while an old snapshot needs all of them, updates leave the
# page, and must then have index entries, which the worker writes without SQL
#
subtest 'an old snapshot' => sub {
	my $old = Session->new($node, 'postgres') or die $Session::error;

	webhook('versions', '/');
	$old->query('BEGIN ISOLATION LEVEL REPEATABLE READ; SELECT count(*) FROM chatwebhook.health');
	send_all('versions', 1) foreach 1 .. 40;
	# no page holds 40 of them
	is( sql(q{SELECT h.total, (SELECT sum(n) FROM unnest(latency_counts) AS n), cardinality(recent)
			FROM chatwebhook.health h JOIN chatwebhook.webhook w ON w.id = h.webhook_id WHERE w.name = 'versions'}),
		'40|40|40', 'its health has all attempts');
	sql('CREATE EXTENSION IF NOT EXISTS amcheck');
	is(sql(qq{SELECT bt_index_check('chatwebhook.$_', true)}), '', "$_ is whole") foreach qw(health_pkey health_problem_idx activity_pkey);
	is($old->query(q{SELECT total FROM chatwebhook.health h JOIN chatwebhook.webhook w ON w.id = h.webhook_id WHERE w.name = 'versions'})->{rows},
		"0\n", 'while the old snapshot sees none of them');
	$old->close;
};

done_testing();
