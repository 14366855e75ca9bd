# A whole conversation leaves one thread, contact, lead and ticket, whatever breaks.
#
# Only services that remember what they were asked, and a server that restarts, can
# show this.  Two leads, a hand-off, five messages and an end go to Slack, Discord,
# HubSpot, Salesforce and Zendesk.  Each service has one account for each of its
# steps, in which that step alone goes wrong: the service has processed the request
# and its reply is lost, or a worker is killed while the service holds the reply or
# the request back.  A last set of accounts loses the reply of every step.  All of
# this is done with one worker and with three.
#
# Two objects have no key by which a repeated request is known: the message that
# opens a thread, and a Lead without settings.external_id_field (examples/slack.md,
# discord.md and salesforce.md).  They exist twice where the reply of their own
# request is lost, and nowhere else.

use strict;
use warnings;

use FindBin;
use lib "$FindBin::Bin/../lib";

use Chatwebhook;
use JSON::PP ();
use PostgreSQL::Test::Utils;
use Test::More;
use Time::HiRes qw(sleep time);

my $json = JSON::PP->new->canonical->ascii;
my $services = start_services();

my %lead = (
	email => 'ada@example.com',
	name => 'Ada Lovelace',
	company => 'Engines',
	source => 'widget',
	conversationSummary => 'Wants a price.');
my @conversation = (
	[ 'lead.captured', \%lead ],
	[ 'message.received', { role => 'user', content => 'Message 1' } ],
	[ 'message.sent', { role => 'assistant', content => 'Message 2' } ],
	[ 'lead.captured', { %lead, name => 'A. King', company => 'Other', phone => '+44 1' } ],
	[ 'message.received', { role => 'user', content => 'Message 3' } ],
	[ 'handoff.requested', {
		reason => 'A price',
		urgency => 'high',
		visitorEmail => $lead{email},
		visitorName => 'Ada' } ],
	[ 'message.received', { role => 'user', content => 'Message 4' } ],
	[ 'message.sent', { role => 'assistant', content => 'Message 5' } ],
	[ 'conversation.ended', {
		duration => 60,
		conversationHistory => [ { role => 'user', content => 'How much?' } ] } ]);
my $n_for_threads = @conversation;
my @ids = map { ($_ => 'Chat_Event_Id__c') }
  qw(external_id_field task_external_id_field case_external_id_field);
my %settings = (
	'slack~bot' => { channel => $services->credentials('slack')->{channel} },
	'discord~forum' => { forum => JSON::PP::true },
	'hubspot~new' => { handoff => 'ticket' },
	'hubspot~known' => { handoff => 'ticket' },
	'salesforce~ids' => { handoff => 'case', @ids },
	'salesforce~plain' => { handoff => 'case' },
	'zendesk~new' => {});

# Where a service's webhook sends to, and with what.
sub columns
{
	my ($service, $label) = @_;
	my $known = $services->credentials($service);
	my $oauth = sub {
		my ($path, @scope) = @_;
		return (
			url => $services->url("/$label"),
			auth => {
				type => 'oauth2',
				token_url => $services->url("/$label$path"),
				client_id => $known->{client_id},
				@scope },
			credentials => { client_secret => $known->{client_secret} });
	};
	return $service eq 'slack'
	  ? (url => $services->url("/$label/api/chat.postMessage"),
		auth => { type => 'bearer', token => '{{token}}' },
		credentials => { token => $known->{token} })
	  : $service eq 'discord'
	  ? (url => $services->url("/$label/api/webhooks/$known->{id}/{{token}}"),
		credentials => { token => $known->{token} })
	  : $service eq 'hubspot'
	  ? (url => $services->url("/$label"),
		auth => { type => 'bearer', token => '{{access_token}}' },
		credentials => { access_token => $known->{access_token} })
	  : $service eq 'salesforce' ? $oauth->('/services/oauth2/token')
	  : $oauth->('/oauth/tokens', scope => 'read write');
}

# A new account, and a webhook that alone gets the events of the chatbot of the same
# name.
sub prepare
{
	my ($node, $kind, $label) = @_;
	my ($service) = $kind =~ /^(\w+)/;

	$services->control($label, 'configure', settings => { forum => JSON::PP::true })
	  if $service eq 'discord';
	$services->control($label, 'seed', object => 'contacts', fields => {
		email => $lead{email}, firstname => 'Augusta', lifecyclestage => 'customer' })
	  if $kind eq 'hubspot~known';
	create_webhook(
		$node,
		name => $label,
		chatbot_id => $label,
		connector => $service,
		settings => $settings{$kind},
		max_retries => 50,
		backoff => '10 ms',
		max_backoff => '10 ms',
		timeout => '5 minutes',
		columns($service, $label));
}

# Emit the conversation for these chatbots, each event in a transaction.
sub talk
{
	my (@labels) = @_;
	foreach my $event (@conversation)
	{
		my ($type, $data) = ($event->[0], literal($json->encode($event->[1])));
		sql("SELECT count(chatwebhook.emit('$type', bot, 'c1', $data))
			FROM unnest(" . literal(\@labels) . '::text[]) AS bot');
	}
}

sub set
{
	my ($name, $value) = @_;
	sql("ALTER SYSTEM SET $name = '$value'");
	sql('SELECT pg_reload_conf()');
}

# Wait until nothing is owed any more.  What waits for its retry is hurried: a
# connector may ask for a minute.
sub finish
{
	my $deadline = time + $PostgreSQL::Test::Utils::timeout_default;
	while (sql(q{SELECT count(*) FROM chatwebhook.delivery WHERE status = 'pending'}))
	{
		return 0 if time > $deadline;
		sql(q{SELECT count(chatwebhook.retry(d.id)) FROM chatwebhook.delivery d
			JOIN chatwebhook.webhook_health h USING (webhook_id)
			WHERE d.status = 'pending' AND d.last_error IS NOT NULL AND h.in_flight = 0
				AND d.next_attempt_at > now() + interval '1 second'});
		sleep 0.05;
	}
	return 1;
}

# The requests that each account has had, but for those for tokens.
sub requests
{
	my %requests;
	push @{ $requests{ $_->{label} } }, "$_->{method} $_->{path}"
	  foreach grep { $_->{path} !~ /oauth/ } $services->log;
	return %requests;
}

# What a thread has: each message once, in order, and all in the thread.
sub thread_problem
{
	my ($messages, $thread_of, $may_open_twice) = @_;
	my (%seen, @all, @texts, @threads);
	foreach my $message (@$messages)
	{
		my $text = $json->encode($message->{message}) =~ s/"(thread_ts|thread_name)":"[^"]*",?//gr;
		push @all, $text;
		push @threads, $thread_of->($message);
		push @texts, $1 if !$seen{$text}++ && $text =~ /(Message \d)/;
	}
	# nothing follows in those that were opened before the last one
	while ($may_open_twice && @all > 1 && $all[0] eq $all[1])
	{
		shift @all;
		shift @threads;
	}
	my %threads = map { $_ => 1 } @threads;
	return scalar(keys %threads) . ' threads' if keys %threads != 1;
	return "order: @texts" if "@texts" ne join ' ', map { "Message $_" } 1 .. 5;
	return scalar(keys %seen) . ' messages' if keys %seen != $n_for_threads;
	return '';
}

# What is wrong with an account after the conversation; $lost is the request whose
# reply was lost, if its service has processed it.
sub problem
{
	my ($kind, $label, $lost) = @_;
	my ($service) = $kind =~ /^(\w+)/;
	my $state = $services->state($label);
	my $outcome = sql("SELECT string_agg(DISTINCT concat_ws(' ', status, last_error), ', ')
		FROM chatwebhook.delivery WHERE webhook_name = '$label'");
	my %count = map { $_ => scalar @{ $state->{$_} // [] } }
	  qw(contacts Lead Case tickets);

	return $outcome if $outcome ne 'delivered';
	if ($service eq 'slack')
	{
		return thread_problem($state->{messages}, sub { $_[0]{message}{thread_ts} // $_[0]{ts} },
			($lost // '') eq 'first');
	}
	elsif ($service eq 'discord')
	{
		return thread_problem($state->{messages}, sub { $_[0]{thread} }, ($lost // '') eq 'first');
	}
	elsif ($service eq 'hubspot')
	{
		return "$count{contacts} contacts" if $count{contacts} != 1;
		my $is = $state->{contacts}[0]{properties};
		my %expected = (
			$kind eq 'hubspot~known'
			? (firstname => 'Augusta', lifecyclestage => 'customer')
			: (firstname => 'Ada', lifecyclestage => 'lead'),
			lastname => 'Lovelace', company => 'Engines', phone => '+44 1');
		return join ', ', map { "$_ is " . ($is->{$_} // 'blank') }
		  grep { ($is->{$_} // '') ne $expected{$_} } sort keys %expected;
	}
	elsif ($service eq 'salesforce')
	{
		my $plain = $kind eq 'salesforce~plain';
		my $leads = $plain && ($lost // '') =~ m{/Lead$} ? 2 : 1;
		return "$count{Lead} Leads" if $count{Lead} != $leads;
		my %leads = map { $_->{Id} => 1 } @{ $state->{Lead} };
		return 'a Task of no Lead' if grep { !$leads{ $_->{WhoId} // '' } } @{ $state->{Task} };
		return "$count{Case} Cases" if !$plain && $count{Case} != 1;
	}
	else
	{
		return "$count{tickets} tickets" if $count{tickets} != 1;
	}
	return '';
}

foreach my $workers (1, 3)
{
	subtest "workers: $workers" => sub {
		my $node = new_node(
			"workers$workers",
			'restart_after_crash' => 'on',
			'chatwebhook.workers' => $workers,
			'chatwebhook.connector_timeout' => '1min');

		# Kill a worker, which restarts the server.
		my $kill = sub {
			wait_until('SELECT count(*) > 0 FROM chatwebhook.worker_status')
			  or die "there is no worker\n";
			my $offset = -s $node->logfile;
			kill 'KILL', sql('SELECT pid FROM chatwebhook.worker_status LIMIT 1');
			$node->wait_for_log(qr/all server processes terminated; reinitializing/, $offset);
			wait_until('SELECT true') or die "the server is not back\n";
		};

		# See that all is delivered, and what is wrong then; the labels, each with the
		# request whose reply was lost.
		my $finish = sub {
			my ($what, %lost) = @_;
			ok(finish(), "$what: everything is delivered in the end");
			my @problems = map {
				my ($kind) = /^(.*?)-/;
				my $problem = problem($kind, $_, $lost{$_});
				$problem eq '' ? () : "$_: $problem";
			} sort keys %lost;
			is(join("\n", @problems), '', "$what: one thread, contact, lead and ticket each");
			sql('DELETE FROM chatwebhook.webhook');
		};

		# undisturbed: how many steps there are
		my %calm = map { ("$_-calm$workers" => undef) } keys %settings;
		prepare($node, s/-.*//r, $_) foreach sort keys %calm;
		talk(sort keys %calm);
		$finish->('undisturbed', %calm);
		my %requests = requests();
		my %steps = map { $_ => $requests{"$_-calm$workers"} } keys %settings;

		# a label for each step of each service, and the request that is broken off
		my $for_each_step = sub {
			my ($what, $fault) = @_;
			my %lost;
			foreach my $kind (sort keys %steps)
			{
				foreach my $step (0 .. $#{ $steps{$kind} })
				{
					my $label = "$kind-$what$workers-$step";
					prepare($node, $kind, $label);
					$services->control($label, $fault, skip => $step);
					$lost{$label} =
						$fault eq 'hang' ? undef
					  : $step == 0 ? $kind =~ /slack|discord/ ? 'first' : $steps{$kind}[0]
					  : $steps{$kind}[$step];
				}
			}
			talk(sort keys %lost);
			return %lost;
		};

		my %without = $for_each_step->('lost', 'lose_reply');
		$finish->('reply lost', %without);
		my %hit = map { $_->{label} => 1 } grep { ($_->{fault} // '') eq 'lose_reply' } $services->log;
		is(scalar(grep { !$hit{$_} } keys %without), 0, 'reply lost: one of each was');
		foreach my $fault ('hang_after_processing', 'hang')
		{
			my %lost = $for_each_step->($fault, $fault);
			ok($services->wait_until(sub {
				my %hung = map { $_->{label} => 1 } grep { ($_->{fault} // '') eq $fault } $services->log;
				return !grep { !$hung{$_} } keys %lost;
			}), "$fault: a request of each hangs");
			$kill->();
			$finish->("worker killed, $fault", %lost);
		}

		# a worker is killed wherever it is
		my @times = 1 .. 4;
		my %busy = map { my $kind = $_; map { ("$kind-busy$workers-$_" => 'first') } @times }
		  grep { $_ ne 'salesforce~plain' } keys %steps;
		prepare($node, s/-.*//r, $_) foreach sort keys %busy;
		# the kills come once all events are there
		set('chatwebhook.enabled', 'off');
		talk(sort keys %busy);
		set('chatwebhook.enabled', 'on');
		my $expected = 0;
		$expected += @times * @{ $steps{$_} } foreach grep { $_ ne 'salesforce~plain' } keys %steps;
		foreach my $share (0.2, 0.4, 0.6)
		{
			ok($services->wait_until(sub {
				$share * $expected <= grep { $_->{label} =~ /-busy$workers-/ } $services->log
			}),
				"busy: $share of the requests have come");
			$kill->();
		}
		$finish->('workers killed while busy', %busy);

		# every reply is lost once
		my %all;
		foreach my $kind (sort keys %steps)
		{
			next if $kind eq 'salesforce~plain';
			my $label = "$kind-all$workers";
			prepare($node, $kind, $label);
			# each of these sees only what those before it let pass
			$services->control($label, 'lose_reply', skip => $_)
			  foreach 0 .. $#{ $steps{$kind} };
			$all{$label} = 'first';
		}
		talk(sort keys %all);
		$finish->('every reply lost', %all);

		becomes_true("SELECT count(*) = $workers FROM chatwebhook.worker_status", 'all workers are there');
		unlike(slurp_file($node->logfile), qr/PANIC|TRAP|Segmentation/, 'no process has crashed by itself');
		end_sessions();
		$node->stop;
	};
}

done_testing();
