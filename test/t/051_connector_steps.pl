# A delivery of several requests goes on at the step that failed.
#
# Only a service that remembers what it was asked can show this.  Every connector
# of several steps is broken off at each of them: the service refuses, loses its
# reply, or hangs while the worker is ended, the worker is killed or the server
# crashes.  In the end the delivery is delivered, no step whose reply had come is
# made again, and no object exists twice, except where the service has no means
# against it: an object without an id of ours, if the service has made it and its
# reply is lost.  Those are named below, and do exist twice.

use strict;
use warnings;

use FindBin;
use lib "$FindBin::Bin/../lib";

use Chatwebhook;
use JSON::PP ();
use PostgreSQL::Test::Utils;
use Test::More;
use Time::HiRes qw(sleep time);

my $services = start_services();
my $node = new_node('main', 'restart_after_crash' => 'on');
my $json = JSON::PP->new->canonical->ascii;

my %lead = (
	email => "o'brien\@example.com",
	name => 'Ada Lovelace',
	company => 'Engines',
	source => 'widget',
	conversationSummary => 'Wants a price.');
my %handoff = (
	reason => 'A price',
	urgency => 'high',
	visitorEmail => 'ada@example.com',
	visitorName => 'Ada',
	conversationHistory => [ { role => 'user', content => 'How much?' } ]);
my $seed_ticket = sub {
	my ($label) = @_;
	$services->control($label, 'seed', object => 'ticket',
		fields => { external_id => 'c1', subject => 'Before' });
};

# By the label of the account: the event and what goes with it; "twice", which
# requests make another object when they are repeated, and of which kind; "then",
# which request follows one that is repeated although the service has processed it.
my $existing = {
	'POST /crm/objects/2026-03/contacts' => 'GET /crm/objects/2026-03/contacts/N?properties=' };
my %scenarios = (
	'hubspot~deal' => {
		event => [ 'lead.captured', \%lead ],
		settings => { deal => JSON::PP::true },
		objects => { contacts => 1, notes => 1, deals => 1 },
		then => $existing,
		twice => qr{^POST /crm/\S+/(notes|deals)$} },
	'hubspot~ids' => {
		event => [ 'lead.captured', \%lead ],
		settings => { note_id_property => 'chat_event', deal => { id_property => 'chat_event' } },
		configure => { unique => { notes => ['chat_event'], deals => ['chat_event'] } },
		objects => { contacts => 1, notes => 1, deals => 1 },
		then => $existing },
	'hubspot~sale' => {
		event => [ 'sales.opportunity',
			{ visitorId => 'v', intent => 'to buy', email => 'ada@example.com', estimatedValue => 12.5 } ],
		objects => { contacts => 1, deals => 1 },
		then => $existing,
		twice => qr{^POST /crm/\S+/(deals)$} },
	'salesforce~key' => {
		event => [ 'lead.captured', \%lead ],
		settings => { external_id_field => 'Chat_Event_Id__c' },
		objects => { Lead => 1 } },
	'salesforce~known' => {
		event => [ 'lead.captured', \%lead ],
		seed => sub {
			my ($label) = @_;
			$services->control($label, 'seed', object => 'Contact',
				fields => { LastName => "O'Brien", Email => $lead{email} });
		},
		objects => { Contact => 1, Task => 1 },
		twice => qr{^POST /services/\S+/(Task)$} },
	'salesforce~new' => {
		event => [ 'lead.captured', \%lead ],
		objects => { Lead => 1, Task => 1 },
		twice => qr{^POST /services/\S+/(Lead|Task)$} },
	'salesforce~task' => {
		event => [ 'lead.captured', \%lead ],
		settings => { task_external_id_field => 'Chat_Event_Id__c' },
		objects => { Lead => 1, Task => 1 },
		twice => qr{^POST /services/\S+/(Lead)$} },
	'zendesk~new' => {
		event => [ 'handoff.requested', \%handoff ],
		objects => { tickets => 1, comments => 1 } },
	'zendesk~again' => {
		event => [ 'handoff.requested', \%handoff ],
		seed => $seed_ticket,
		objects => { tickets => 1, comments => 2 },
		twice => qr{^(?<comments>PUT) /api/v2/tickets/\d+} },
	'zendesk~ended' => {
		event => [ 'conversation.ended', { duration => 60 } ],
		seed => $seed_ticket,
		objects => { tickets => 1, comments => 2 },
		twice => qr{^(?<comments>PUT) /api/v2/tickets/\d+} },
	'pagerduty~test' => {
		event => [ 'webhook.test', { message => 'A test' } ],
		objects => { alerts => 1, resolved => 1 } });

# What each service wants for its URL, auth and credential.
sub columns
{
	my ($label) = @_;
	my ($service) = $label =~ /^(\w+)/;
	my $known = $services->credentials($service);
	my $oauth = sub {
		my ($path, @scope) = @_;
		return {
			type => 'oauth2',
			token_url => $services->url("/$label$path"),
			client_id => $known->{client_id},
			@scope };
	};
	my %columns = (
		hubspot => [ '', { type => 'bearer', token => '{{access_token}}' }, 'access_token' ],
		salesforce => [ '', $oauth->('/services/oauth2/token'), 'client_secret' ],
		zendesk => [ '', $oauth->('/oauth/tokens', scope => 'read write'), 'client_secret' ],
		pagerduty => [ '/v2/enqueue',
			{ type => 'body', name => 'routing_key', value => '{{routing_key}}' }, 'routing_key' ]);
	return @{ $columns{$service} };
}

# A new account and a webhook for it, which alone gets the events of the chatbot
# of the same name.  Gives the label.
sub prepare
{
	my ($name, $suffix) = @_;
	my $scenario = $scenarios{$name};
	my $label = "$name-$suffix";
	my ($service) = $label =~ /^(\w+)/;
	my ($path, $auth, $credential) = columns($label);

	$services->control($label, 'configure', settings => $scenario->{configure} // {});
	$scenario->{seed}->($label) if $scenario->{seed};
	my ($id) = create_webhook(
		$node,
		name => $label,
		chatbot_id => $label,
		events => [ $scenario->{event}[0] ],
		url => $services->url("/$label$path"),
		connector => $service,
		settings => $scenario->{settings} // {},
		auth => $auth,
		max_retries => 50,
		backoff => '10 ms',
		max_backoff => '10 ms',
		timeout => '5 minutes');
	sql("SELECT chatwebhook.set_credential('$id', '$credential', '"
		  . $services->credentials($service)->{$credential} . "')");
	return $label;
}

sub emit
{
	my ($label, $name) = @_;
	my ($type, $data) = @{ $scenarios{$name}{event} };
	my $text = $json->encode($data) =~ s/'/''/gr;
	sql("SELECT chatwebhook.emit('$type', '$label', 'c1', '$text')");
}

# The requests that an account has had, but for those for tokens.
sub requests
{
	my ($label) = @_;
	return map {
		my $target = "$_->{method} $_->{path}" . ($_->{query} ne '' ? "?$_->{query}" : '');
		$target =~ s/[0-9a-f]{8}-[0-9a-f-]{27}/ID/gr =~ s{/contacts/\d+(\?properties=)?.*}{/contacts/N$1}r;
	  }
	  grep { $_->{path} !~ /oauth/ } $services->log($label);
}

# How many objects of each kind the account has.
sub objects
{
	my ($label) = @_;
	my $state = $services->state($label);
	my %count = map { $_ => scalar @{ $state->{$_} // [] } }
	  qw(contacts notes deals Lead Contact Task tickets alerts);
	$count{comments} = 0;
	$count{comments} += @{ $_->{comments} } foreach @{ $state->{tickets} // [] };
	$count{resolved} = grep { $_->{status} eq 'resolved' } @{ $state->{alerts} // [] };
	return { map { $_ => $count{$_} } grep { $count{$_} } keys %count };
}

# Wait until nothing is owed any more.  What waits for its retry is hurried: a
# connector may ask for a minute.
sub finish
{
	my $deadline = time + $PostgreSQL::Test::Utils::timeout_default;
	while (sql(q{SELECT count(*) FROM chatwebhook.delivery WHERE status = 'pending'}))
	{
		return 0 if time > $deadline;
		sql(q{SELECT chatwebhook.retry(d.id) FROM chatwebhook.delivery d
			JOIN chatwebhook.webhook_health h USING (webhook_id)
			WHERE d.status = 'pending' AND d.last_error IS NOT NULL AND h.in_flight = 0
				AND d.next_attempt_at > now() + interval '1 second'});
		sleep 0.05;
	}
	return 1;
}

# What became of a webhook's deliveries.
sub outcome
{
	my ($label) = @_;
	return sql(qq{SELECT concat_ws(' ', status, last_error) FROM chatwebhook.delivery
		WHERE webhook_name = '$label'});
}

sub worker_pid
{
	wait_until('SELECT count(*) = 1 FROM chatwebhook.worker_status')
	  or die "there is no worker\n";
	return sql('SELECT pid FROM chatwebhook.worker_status');
}

#
# Undisturbed: how many steps there are
#
my %steps;
{
	my %labels = map { $_ => prepare($_, 'undisturbed') } sort keys %scenarios;
	emit($labels{$_}, $_) foreach sort keys %scenarios;
	ok(finish(), 'undisturbed, everything is delivered');
	foreach my $name (sort keys %scenarios)
	{
		my $label = $labels{$name};
		$steps{$name} = [ requests($label) ];
		is(outcome($label), 'delivered', "$name: delivered");
		is_deeply(objects($label), $scenarios{$name}{objects}, "$name: the objects");
		# HubSpot has no such contact
		is(scalar(grep { $_->{status} >= 400 && !($_->{status} == 404 && $_->{path} =~ m{/contacts/}) } $services->log($label)), 0,
			"$name: nothing was refused");
		cmp_ok(scalar @{ $steps{$name} }, '>=', $name eq 'salesforce~key' ? 1 : 2,
			"$name: " . @{ $steps{$name} } . ' steps');
	}
	sql('DELETE FROM chatwebhook.webhook');
}
my ($most) = sort { $b <=> $a } map { scalar @$_ } values %steps;

#
# Broken off once, at one step
#
my %break_off = (
	term => sub {
		sql('SELECT pg_terminate_backend(' . worker_pid() . ')');
	},
	kill => sub {
		my $offset = -s $node->logfile;
		kill 'KILL', worker_pid();
		$node->wait_for_log(qr/all server processes terminated; reinitializing/, $offset);
		wait_until('SELECT true') or die "the server is not back\n";
	},
	immediate => sub {
		$node->stop('immediate');
		$node->start;
	});
my @breaks = (
	# what the service does, whether it has processed the request, how the worker
	# is stopped meanwhile
	[ 'refused', 'status', 0 ],
	[ 'reply-lost', 'lose_reply', 1 ],
	[ 'error-after', 'status_after_processing', 1 ],
	[ 'ended-before', 'hang', 0, 'term' ],
	[ 'ended-after', 'hang_after_processing', 1, 'term' ],
	[ 'killed-before', 'hang', 0, 'kill' ],
	[ 'crash-before', 'hang', 0, 'immediate' ],
	[ 'crash-after', 'hang_after_processing', 1, 'immediate' ]);

foreach my $break (@breaks)
{
	my ($what, $fault, $processed, $how) = @$break;
	subtest $what => sub {
		foreach my $step (1 .. $most)
		{
			my @names = grep { @{ $steps{$_} } >= $step } sort keys %scenarios;
			my %labels = map { $_ => prepare($_, "$what-$step") } @names;
			$services->control($_, $fault, status => 503, skip => $step - 1)
			  foreach values %labels;
			emit($labels{$_}, $_) foreach @names;
			if ($how)
			{
				my $hung = sub {
					my %there = map { $_->{label} => 1 }
					  grep { ($_->{fault} // '') eq $fault } $services->log;
					return !grep { !$there{$_} } values %labels;
				};
				ok($services->wait_until($hung), "step $step: all hang");
				$break_off{$how}->();
			}
			ok(finish(), "step $step: everything is delivered in the end");

			foreach my $name (@names)
			{
				my $label = $labels{$name};
				my @expected = @{ $steps{$name} };
				my $broken = $expected[ $step - 1 ];
				my %objects = %{ $scenarios{$name}{objects} };
				my $scenario = $scenarios{$name};
				my $twice = $scenario->{twice};

				# the service's means do not reach so far
				if ($processed && $twice && $broken =~ $twice)
				{
					my ($kind) = (keys %+, $1);
					$objects{$kind}++;
				}
				my $then = $processed ? $scenario->{then}{$broken} : undef;
				splice @expected, $step - 1, 1, $broken, $broken, $then // ();
				is(outcome($label), 'delivered', "$name, step $step: delivered");
				is_deeply([ requests($label) ], \@expected,
					"$name, step $step: it alone was repeated");
				is_deeply(objects($label), \%objects, "$name, step $step: the objects");
			}
			sql('DELETE FROM chatwebhook.webhook');
		}
	};
}

# Not only one: every step fails at first.
subtest 'every step is refused once' => sub {
	my %labels = map { $_ => prepare($_, 'all') } sort keys %scenarios;
	foreach my $name (sort keys %scenarios)
	{
		# each of these sees only what those before it let pass
		$services->control($labels{$name}, 'status', status => 503, skip => $_)
		  foreach 0 .. $#{ $steps{$name} };
		emit($labels{$name}, $name);
	}
	ok(finish(), 'everything is delivered in the end');
	foreach my $name (sort keys %scenarios)
	{
		is(outcome($labels{$name}), 'delivered', "$name: delivered");
		is_deeply([ requests($labels{$name}) ], [ map { $_, $_ } @{ $steps{$name} } ],
			"$name: each step was made twice");
		is_deeply(objects($labels{$name}), $scenarios{$name}{objects}, "$name: the objects");
	}
	sql('DELETE FROM chatwebhook.webhook');
};

# A delivery that was given up half-way goes on there when it is retried.
subtest 'a dead one goes on where it was' => sub {
	my @names = grep { @{ $steps{$_} } >= 2 } sort keys %scenarios;
	my %labels = map { $_ => prepare($_, 'dead') } @names;
	foreach my $name (@names)
	{
		$services->control($labels{$name}, 'status', status => 400, body => 'no', skip => 1);
		emit($labels{$name}, $name);
	}
	ok(finish(), 'all are finished');
	foreach my $name (@names)
	{
		like(outcome($labels{$name}), qr/^dead .*400/, "$name: dead");
	}
	sql('SELECT chatwebhook.retry(id) FROM chatwebhook.dead_letter');
	ok(finish(), 'all are finished again');
	foreach my $name (@names)
	{
		my @expected = @{ $steps{$name} };
		splice @expected, 1, 0, $expected[1];
		is(outcome($labels{$name}), 'delivered', "$name: delivered");
		is_deeply([ requests($labels{$name}) ], \@expected, "$name: the first step was not repeated");
		is_deeply(objects($labels{$name}), $scenarios{$name}{objects}, "$name: the objects");
	}
};

sql('DELETE FROM chatwebhook.webhook');

#
# A conversation: what one event has taught, the next one knows, whichever reply of
# them is lost.
#
my @conversation = (
	[ 'lead.captured', \%lead ],
	[ 'lead.captured', { %lead, name => 'A. Lovelace', phone => '1' } ],
	[ 'handoff.requested', { reason => 'A price', urgency => 'high' } ],
	(map { [ $_ % 2 ? 'message.received' : 'message.sent', { role => 'x', content => "Message $_" } ] } 1 .. 5),
	[ 'conversation.ended', { conversationHistory => [ { role => 'user', content => 'How much?' } ] } ]);

subtest 'a conversation' => sub {
	my $slack = $services->credentials('slack');
	my $discord = $services->credentials('discord');
	my %own = (
		slack => { url => '/api/chat.postMessage', auth => { type => 'bearer', token => '{{token}}' }, credential => [ token => $slack->{token} ],
			settings => { channel => $slack->{channel} } },
		discord => { url => "/api/webhooks/$discord->{id}/{{token}}", credential => [ token => $discord->{token} ],
			settings => { forum => JSON::PP::true } },
		hubspot => { settings => { handoff => 'ticket' } },
		salesforce => { settings => { handoff => 'case', external_id_field => 'Chat_Event_Id__c', task_external_id_field => 'Chat_Event_Id__c',
				case_external_id_field => 'Chat_Event_Id__c' } },
		zendesk => {},
		pagerduty => {});
	my $webhook = sub {
		my ($service, $label) = @_;
		my $own = $own{$service};
		my ($path, $auth, $credential) = $own->{credential} ? ($own->{url}, $own->{auth}, $own->{credential}[0]) : columns($label);
		$services->control($label, 'configure', settings => { forum => JSON::PP::true }) if $service eq 'discord';
		my ($id) = create_webhook(
			$node,
			name => $label,
			chatbot_id => $label,
			events => ['*'],
			url => $services->url("/$label$path"),
			connector => $service,
			settings => $own->{settings} // {},
			defined $auth ? (auth => $auth) : (),
			max_retries => 50,
			backoff => '10 ms',
			max_backoff => '10 ms',
			timeout => '5 minutes');
		my $value = $own->{credential} ? $own->{credential}[1] : $services->credentials($service)->{$credential};
		sql("SELECT chatwebhook.set_credential('$id', '$credential', '$value')");
	};
	my $talk = sub {
		foreach my $label (@_)
		{
			sql("SELECT chatwebhook.emit('$_->[0]', '$label', 'c1', '" . ($json->encode($_->[1]) =~ s/'/''/gr) . "')") foreach @conversation;
		}
	};
	# what must hold, whichever reply was lost, but that of the first message of a
	# thread: nothing keeps that from being sent again
	my $check = sub {
		my ($service, $label, $lost) = @_;
		my $state = $services->state($label);
		is(sql("SELECT DISTINCT concat_ws(' ', status, last_error) FROM chatwebhook.delivery WHERE webhook_name = '$label'"), 'delivered', "$label: delivered");
		if ($service eq 'slack' || $service eq 'discord')
		{
			my @messages = @{ $state->{messages} };
			my @threads = map { $service eq 'slack' ? $_->{message}{thread_ts} // $_->{ts} : $_->{thread} } @messages;
			shift @threads if defined $lost && $lost == 0;
			my %threads = map { $_ => 1 } @threads;
			is(scalar keys %threads, 1, "$label: one thread");
			my @texts = map { $json->encode($_->{message}) =~ /Message (\d)/ } @messages;
			my %seen;
			is(join('', grep { !$seen{$_}++ } @texts), '12345', "$label: in order");
		}
		elsif ($service eq 'hubspot')
		{
			is(scalar @{ $state->{contacts} }, 1, "$label: one contact");
			is($state->{contacts}[0]{properties}{firstname}, 'Ada', "$label: which keeps its name");
			is($state->{contacts}[0]{properties}{phone}, '1', "$label: and gets what was blank");
		}
		elsif ($service eq 'salesforce')
		{
			is(scalar @{ $state->{Lead} }, 1, "$label: one Lead");
			is(scalar @{ $state->{Case} }, 1, "$label: one Case");
			is(scalar(grep { ($_->{WhoId} // '') ne $state->{Lead}[0]{Id} } @{ $state->{Task} }), 0, "$label: all Tasks are the Lead's");
			is(scalar @{ $state->{Task} }, 2, "$label: a Task for the second lead, and one for the end");
		}
		elsif ($service eq 'zendesk')
		{
			is(scalar @{ $state->{tickets} }, 1, "$label: one ticket");
		}
		else
		{
			is(join(' ', map { $_->{status} } @{ $state->{alerts} }), 'resolved', "$label: one incident, which is resolved");
		}
	};

	my %requests;
	$webhook->($_, "$_~calm") foreach sort keys %own;
	$talk->(map { "$_~calm" } sort keys %own);
	ok(finish(), 'undisturbed, everything is delivered');
	foreach my $service (sort keys %own)
	{
		$check->($service, "$service~calm");
		$requests{$service} = requests("$service~calm");
	}
	foreach my $service (sort keys %own)
	{
		my @labels = map { "$service~lost$_" } 0 .. $requests{$service} - 1;
		foreach my $n (0 .. $#labels)
		{
			$webhook->($service, $labels[$n]);
			$services->control($labels[$n], $n % 2 ? 'status_after_processing' : 'lose_reply', status => 503, skip => $n);
		}
		$talk->(@labels);
		ok(finish(), "$service: everything is delivered in the end");
		$check->($service, $labels[$_], $_) foreach 0 .. $#labels;
		sql('DELETE FROM chatwebhook.webhook');
	}
};

unlike(slurp_file($node->logfile), qr/PANIC|TRAP|Segmentation/, 'no process has crashed by itself');

$node->stop;
done_testing();
