# Every connector that comes with the extension, and bad ones, at work.
#
# Only the worker, and services that know their own rules, can show that the
# services accept what each type of event becomes, what their errors lead to, that
# a token is fetched once for many deliveries, that no secret is anywhere, and that
# a connector that misbehaves harms nothing but its own deliveries.

use strict;
use warnings;

use FindBin;
use lib "$FindBin::Bin/../lib";

use Chatwebhook;
use JSON::PP ();
use MIME::Base64 qw(encode_base64);
use PostgreSQL::Test::Utils;
use Test::More;

my $services = start_services();
my $receiver = start_receiver();
my $node = new_node(
	'main',
	'chatwebhook.log_attempts' => 'all',
	'chatwebhook.connector_timeout' => '1min',
	'log_statement' => 'none',
	'log_min_error_statement' => 'panic',
	'log_min_messages' => 'debug1');
my $json = JSON::PP->new->canonical->ascii;
my $shown = '';		# what functions have shown to people

sub worker_pid
{
	wait_until('SELECT count(*) = 1 FROM chatwebhook.worker_status')
	  or die "there is no worker\n";
	return sql('SELECT pid FROM chatwebhook.worker_status');
}

# A value as a literal of jsonb.
sub jsonb
{
	my ($value) = @_;
	return "'" . ($json->encode($value) =~ s/'/''/gr) . "'";
}

sub emit
{
	my ($chatbot, $type, $data, $conversation) = @_;
	$conversation //= 'c1';
	sql("SELECT chatwebhook.emit('$type', '$chatbot', '$conversation', " . jsonb($data) . ')');
	return;
}

# What each service wants: its URL, its auth, its credentials.
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
		slack => [ undef, undef,
			url => $known->{path} && $services->url("/$label$known->{path}") ],
		discord => [ '/api/webhooks/' . ($known->{id} // '') . '/{{token}}', undef,
			token => $known->{token} ],
		hubspot => [ '', { type => 'bearer', token => '{{access_token}}' },
			access_token => $known->{access_token} ],
		salesforce => [ '', $oauth->('/services/oauth2/token'),
			client_secret => $known->{client_secret} ],
		zendesk => [ '', $oauth->('/oauth/tokens', scope => 'read write'),
			client_secret => $known->{client_secret} ],
		pagerduty => [ '/v2/enqueue',
			{ type => 'body', name => 'routing_key', value => '{{routing_key}}' },
			routing_key => $known->{routing_key} ]);
	my ($path, $auth, %credentials) = @{ $columns{$service} };
	if ($label =~ /^zendesk~basic/)
	{
		$auth = { type => 'basic', username => $known->{username}, password => '{{api_token}}' };
		%credentials = (api_token => $known->{api_token});
	}
	return (defined $path ? $services->url("/$label$path") : '{{url}}', $auth, %credentials);
}

# A webhook of a shipped connector for an account; its id.  It gets the events of
# the chatbot of the account's name, unless told otherwise.
sub service
{
	my ($label, %more) = @_;
	my ($connector) = $label =~ /^(\w+)/;
	my ($url, $auth, %credentials) = columns($label);
	my ($id) = create_webhook(
		$node,
		name => $label,
		chatbot_id => $label,
		url => $url,
		connector => $connector,
		events => [ '*', 'webhook.*' ],
		defined $auth ? (auth => $auth) : (),
		credentials => \%credentials,
		backoff => '10 ms',
		%more);
	return $id;
}

# What became of a webhook's deliveries, a line for each.
sub outcome
{
	my ($name) = @_;
	return sql(qq{SELECT concat_ws(' ', status, 'after', attempts, last_error)
		FROM chatwebhook.delivery WHERE webhook_name = '$name' AND event_type <> 'webhook.alert' ORDER BY id});
}

# The requests of an account, but for those for tokens.
sub requests
{
	my ($label) = @_;
	return grep { $_->{path} !~ /oauth/ } $services->log($label);
}

# What was refused, in words.  That HubSpot has no such contact is no refusal, nor
# that another delivery has created it meanwhile.
sub refused
{
	return join "\n",
	  map { "$_->{label} $_->{method} $_->{path}: $_->{status} $_->{reply} for $_->{body}" }
	  grep { ($_->{status} // 0) >= 400 && !($_->{status} =~ /^40[49]$/ && $_->{path} =~ m{/contacts}) } @_;
}

#
# All types of event to all of them
#
my $hostile = q{<!channel> @everyone <@U1> '; -- "\\} . "\x{1F600}" x 3000 . ' &amp; {{token}} </p>';
my %rich = (
	'conversation.started' => { visitorId => 'v1', pageUrl => 'https://example.com/a?b=c&d', userAgent => 'Firefox',
		referrer => 'https://example.org/', metadata => { plan => 'free', n => [ 1, 2 ] } },
	'message.received' => { role => 'user', content => 'How much is it?', sentiment => 'neutral' },
	'message.sent' => { role => 'assistant', content => 'Ten.', sentiment => 'positive' },
	'lead.captured' => { email => 'ada@example.com', name => 'Ada Lovelace', phone => '+44 20 7946 0000', company => 'Engines',
		source => 'widget', conversationSummary => "Wants a price.\nSoon." },
	'handoff.requested' => { reason => 'A price', urgency => 'high', visitorName => 'Ada', visitorEmail => 'ada@example.com',
		conversationHistory => [ { role => 'user', content => 'How much?' }, { role => 'assistant', content => 'Ten.' } ] },
	'sentiment.negative' => { message => 'This is bad', sentimentScore => 0.93 },
	'sales.opportunity' => { visitorId => 'v1', intent => 'to buy', estimatedValue => 1234.5 },
	'webhook.test' => { message => 'A test' },
	'webhook.alert' => { webhookId => '0190f5e0-0000-7000-8000-000000000001', webhookName => 'crm', alertId => 7,
		kind => 'consecutive_failures', message => 'It has failed 5 times', state => 'opened' },
	'order.placed' => { number => 17, items => [ 'a', 'b' ] });
my %poor = (
	'conversation.started' => { visitorId => 'v2', pageUrl => 'https://example.com/', userAgent => 'x' },
	'message.received' => { role => 'user', content => '' },
	'message.sent' => { role => 'assistant', content => '' },
	'lead.captured' => { email => 'min@example.com', source => '', conversationSummary => '' },
	'handoff.requested' => { reason => '' },
	'sentiment.negative' => { message => '', sentimentScore => 0 },
	'sales.opportunity' => { visitorId => '', intent => '' },
	'webhook.test' => {},
	'webhook.alert' => {},
	'order.placed' => {});
my %hostile = map {
	my %data = %{ $rich{$_} };
	my $type = $_;
	($type => { map { $_ => ref $data{$_} || $data{$_} =~ /^[\d.]+$/ ? $data{$_} : $hostile } keys %data });
} keys %rich;
$hostile{'lead.captured'}{email} = "o'brien+x\@example.com";
$hostile{'handoff.requested'}{conversationHistory} = [ { role => $hostile, content => $hostile }, $hostile, 5, undef ];
$hostile{'handoff.requested'}{visitorEmail} = 'not an address';

# These come after the tickets that they are about.
my %later = (
	'conversation.ended' => { duration => 300, reason => 'The visitor left' },
	'feedback.received' => { rating => 5, comment => 'Thank you' });

sql(q{INSERT INTO chatwebhook.event_type (name, description) VALUES ('order.placed', 'One of our own')});
my %all;
subtest 'every type of event' => sub {
	my $seeded = $services->control('salesforce', 'seed', object => 'Contact',
		fields => { LastName => 'Lovelace', Email => 'ADA@example.com' })->{id};
	$all{$_} = service($_, chatbot_id => 'all', max_retries => 0) foreach 'slack', 'discord', 'salesforce', 'zendesk', 'pagerduty';
	$all{hubspot} = service('hubspot', chatbot_id => 'all', max_retries => 0,
		settings => { deal => { pipeline => 'chat', stage => 'qualifiedtobuy' } });
	$all{'salesforce~key'} = service('salesforce~key', chatbot_id => 'all', max_retries => 0,
		settings => { external_id_field => 'Chat_Event_Id__c' });
	$all{'zendesk~basic'} = service('zendesk~basic', chatbot_id => 'all', max_retries => 0);
	$all{'slack~mention'} = service('slack~mention', chatbot_id => 'all', max_retries => 0,
		settings => { app_url => 'https://app.example.com/', mention => '<!here>' });
	$all{'discord~here'} = service('discord~here', chatbot_id => 'all', max_retries => 0,
		settings => { username => 'Chat', avatar_url => 'https://example.com/a.png', mention_here => JSON::PP::true });

	my $events = 0;
	my %variants = (rich => \%rich, poor => \%poor, hostile => \%hostile);
	foreach my $variant (sort keys %variants)
	{
		foreach my $type (sort keys %rich)
		{
			emit('all', $type, $variants{$variant}{$type}, $variant);
			$events++;
		}
	}
	ok(wait_idle($node), 'the worker is done');
	foreach my $variant (sort keys %variants)
	{
		foreach my $type (sort keys %later)
		{
			emit('all', $type, $later{$type}, $variant);
			$events++;
		}
	}
	ok(wait_idle($node), 'the worker is done with what came later');
	is( sql(q{SELECT DISTINCT webhook_name, event_type, status, last_error FROM chatwebhook.delivery
			WHERE status <> 'delivered' OR attempts > 1}),
		'', 'everything is delivered at once');
	is(sql('SELECT name, disabled_reason FROM chatwebhook.webhook WHERE NOT enabled'), '', 'no webhook is disabled');
	is(refused($services->log), '', 'no service has refused anything');
	is(sql('SELECT count(*) FROM chatwebhook.delivery'), $events * keys %all, 'each has had every event');

	foreach my $name ('slack', 'slack~mention')
	{
		my @messages = @{ $services->state($name)->{messages} };
		is(scalar @messages, $events, "$name: a message for each event");
		is(scalar(grep { !length $_->{message}{text} } @messages), 0, "$name: each has a text to fall back on");
		is(scalar(grep { @{ $_->{unescaped} } } @messages), 0, "$name: all is escaped");
		my %mentioned = map { $_ => 1 } map { @{ $_->{mentions} } } @messages;
		is(join(' ', sort keys %mentioned), $name eq 'slack' ? '' : '!here', "$name: only the setting mentions anybody");
	}
	foreach my $name ('discord', 'discord~here')
	{
		my @messages = @{ $services->state($name)->{messages} };
		is(scalar @messages, $events, "$name: a message for each event");
		is(scalar(grep { !$_->{wait} } @messages), 0, "$name: it waits until they are stored");
		my @pings = map { @{ $_->{pings} } } @messages;
		is(join(' ', @pings), $name eq 'discord' ? '' : '@here @here @here', "$name: pings for sales alone, if the setting says so");
	}

	my $hubspot = $services->state('hubspot');
	is(join(' ', sort map { $_->{properties}{email} } @{ $hubspot->{contacts} }),
		"ada\@example.com min\@example.com o'brien+x\@example.com", 'hubspot: a contact for each lead');
	my ($ada) = grep { $_->{properties}{email} eq 'ada@example.com' } @{ $hubspot->{contacts} };
	is_deeply(
		{ %{ $ada->{properties} }{qw(firstname lastname company lifecyclestage hs_lead_status)} },
		{ firstname => 'Ada', lastname => 'Lovelace', company => 'Engines', lifecyclestage => 'lead', hs_lead_status => 'NEW' },
		'hubspot: its properties');
	is(scalar @{ $hubspot->{notes} }, 6, 'hubspot: a note for each, and for the end of each conversation');
	is(scalar @{ $hubspot->{tasks} }, 3, 'hubspot: tasks for hand-offs');
	is(scalar(grep { @{ $_->{associations} } != 1 || $_->{associations}[0]{type} ne 'contacts' } @{ $hubspot->{notes} }),
		0, 'hubspot: associated with it');
	like(join(' ', map { $_->{properties}{hs_note_body} } @{ $hubspot->{notes} }), qr/Wants a price\..*widget/s,
		'hubspot: with the summary and the source');
	is(scalar @{ $hubspot->{deals} }, 6, 'hubspot: deals for leads and opportunities');
	ok((grep { ($_->{properties}{amount} // '') eq '1234.5' } @{ $hubspot->{deals} }), 'hubspot: with their amount');

	my $salesforce = $services->state('salesforce');
	is(scalar @{ $salesforce->{Lead} }, 2, 'salesforce: leads, where there is no contact');
	is(scalar @{ $salesforce->{Contact} }, 1, 'salesforce: no contact is made');
	is(scalar(grep { ($_->{WhoId} // '') eq $seeded } @{ $salesforce->{Task} }), 4, 'salesforce: all tasks of the conversation for the contact that was there');
	foreach my $lead (@{ $salesforce->{Lead} })
	{
		is(scalar(grep { ($_->{WhoId} // '') eq $lead->{Id} } @{ $salesforce->{Task} }), 3, 'salesforce: tasks for the lead: when it was captured, for a sale, and in the end');
	}
	is(scalar @{ $salesforce->{Task} }, 12, 'salesforce: tasks for leads, hand-offs, opportunities and conversations');
	like(join("\n", @{ $salesforce->{queries} }), qr/o\\'brien/, 'salesforce: the address was escaped');
	is(scalar @{ $services->state('salesforce~key')->{Lead} }, 3, 'salesforce: leads by external id');
	is($salesforce->{token_requests}, 1, 'salesforce: one token for all');

	foreach my $name ('zendesk', 'zendesk~basic')
	{
		my @tickets = @{ $services->state($name)->{tickets} };
		is(join(' ', sort map { $_->{external_id} } @tickets), 'hostile poor rich', "$name: a ticket for each conversation");
		is(join(' ', map { scalar @{ $_->{comments} } } @tickets), '3 3 3', "$name: with two comments");
		is(scalar(grep { $_->{public} } map { @{ $_->{comments} }[ 1, 2 ] } @tickets), 0, "$name: which are internal");
		my ($rich) = grep { $_->{external_id} eq 'rich' } @tickets;
		is($rich->{priority}, 'high', "$name: the urgency is the priority");
		like($rich->{description}, qr/user: How much\?.*assistant: Ten\./s, "$name: the history is the description");
	}
	is($services->state('zendesk')->{token_requests}, 1, 'zendesk: one token for all');

	my @alerts = @{ $services->state('pagerduty')->{alerts} };
	is(scalar(grep { $_->{event}{payload}{class} eq 'sentiment.negative' } @alerts), 3, 'pagerduty: incidents for sentiment');
	is(scalar(grep { $_->{event}{payload}{class} eq 'handoff.requested' } @alerts), 1, 'pagerduty: for a hand-off that is urgent');
	is(scalar(grep { $_->{status} eq 'resolved' } @alerts), 7, 'pagerduty: tests are resolved again, and incidents when their conversations end');
	emit('all', 'webhook.alert', { %{ $rich{'webhook.alert'} }, state => 'closed' }, 'rich');
	ok(wait_idle($node), 'the worker is done');
	my ($alert) = grep { ($_->{event}{payload}{custom_details}{kind} // '') eq 'consecutive_failures' }
	  @{ $services->state('pagerduty')->{alerts} };
	is($alert->{status}, 'resolved', 'pagerduty: a closed alert resolves what it triggered');
	is(refused($services->log), '', 'no service has refused anything');
};

subtest 'preview() and test_webhook()' => sub {
	my $before = $services->log;
	foreach my $name (sort keys %all)
	{
		foreach my $type (sort keys %rich, keys %later)
		{
			my $data = $rich{$type} // $later{$type};
			my $event = jsonb({ id => '0190f5e0-0000-7000-8000-000000000002', type => $type, timestamp => '2026-01-02T03:04:05.678Z',
				chatbotId => 'all', conversationId => 'rich', data => $data });
			my ($code, $out, $err) = $node->psql('postgres',
				"SELECT method, url, headers, body, last FROM chatwebhook.preview('$all{$name}', $event)");
			my $unexpected = $err =~ s/.*NOTICE:  nothing to send: .*//r;
			is("$code$unexpected", '0', "$name: a preview of $type");
			$shown .= "$out$err\n";
		}
	}
	my $event = jsonb({ type => 'lead.captured', data => $rich{'lead.captured'} });
	my $replies = jsonb([ { status => 200, body => { id => '77', properties => { map { $_ => 'x' } qw(email firstname lastname phone company) } } } ]);
	my $second = sql("SELECT method, url, body FROM chatwebhook.preview('$all{hubspot}', $event, $replies)");
	like($second, qr{^POST\|.*/notes\|.*"77"}, 'the second request, after a reply');
	is($services->log, $before, 'nothing was sent');

	my $objects = sub {
		my $state = $services->state;
		return join ' ', map { my $s = $state->{$_};
			map { scalar @{ $s->{$_} // [] } } qw(contacts notes deals Lead Contact Task tickets) } sort keys %all;
	};
	my $there = $objects->();
	foreach my $name (sort keys %all)
	{
		my $count = requests($name);
		my $result = sql("SELECT success, status_code, error, response_body FROM chatwebhook.test_webhook('$all{$name}')");
		like($result, qr/^t\|20[0124]\|\|/, "test_webhook() of $name");
		cmp_ok(scalar(requests($name)), '>', $count, "$name: it has sent something");
		$shown .= "$result\n";
	}
	is($objects->(), $there, 'no object was made by a test');
	is(refused($services->log), '', 'no service has refused anything');

	foreach my $name (sort keys %all)
	{
		$services->control($name, 'status', status => 403);
		my $result = sql("SELECT success, status_code, error, response_body FROM chatwebhook.test_webhook('$all{$name}')");
		like($result, qr/^f\|403\|.*403/, "test_webhook() of $name that is refused");
		$shown .= "$result\n";
	}
};
sql('DELETE FROM chatwebhook.webhook');

#
# What settings make of the events: everything that the connectors can create
#
subtest 'other requests, by settings' => sub {
	my $maps = {
		as => { 'order.placed' => 'handoff.requested' },
		fields => { 'order.placed' => { Number => '$.data.number', Each => '$.data.items[*]', Missing => '$.data.none' } } };
	my $known = $services->credentials('slack');
	create_webhook(
		$node,
		name => 'slack~bot',
		chatbot_id => 'settings',
		url => $services->url('/slack~bot/api/chat.postMessage'),
		connector => 'slack',
		events => ['*'],
		auth => { type => 'bearer', token => '{{token}}' },
		credentials => { token => $known->{token} },
		max_retries => 0,
		settings => { channel => $known->{channel}, username => 'Ada', icon => ':robot_face:', app_url => 'https://app.example.com', %$maps });
	$services->control('discord~forum', 'configure', settings => { forum => JSON::PP::true });
	service('discord~forum', chatbot_id => 'settings', max_retries => 0, settings => {
		forum => JSON::PP::true, tags => ['1234567890123456789'], mention => '<@&77> <@78>', app_url => 'https://app.example.com', %$maps });
	$services->control('hubspot~all', 'configure', settings => { properties => { contacts => ['plan__c'], tickets => ['number__c'] } });
	service('hubspot~all', chatbot_id => 'settings', max_retries => 0, settings => {
		handoff => 'ticket', company => JSON::PP::true, owner_id => '7', deal => { currency => 'EUR', close_days => 30 },
		as => $maps->{as}, fields => { 'lead.captured' => { plan__c => '@pro', unknown__c => '@x' }, 'order.placed' => { number__c => '$.data.number' } } });
	my $contact = $services->control('salesforce~all', 'seed', object => 'Contact',
		fields => { LastName => 'Lovelace', Email => 'ada@example.com' })->{id};
	$services->control('salesforce~all', 'configure', settings => { fields => { Case => { Number__c => 20, Yes__c => 'boolean' } } });
	service('salesforce~all', chatbot_id => 'settings', max_retries => 0, settings => {
		handoff => 'case', sales => 'opportunity', currency => 'EUR', as => $maps->{as},
		fields => { 'order.placed' => { Number__c => '$.data.number', Yes__c => JSON::PP::true, No__c => '@x' } } });
	service('zendesk~all', chatbot_id => 'settings', max_retries => 0, settings => {
		solve => JSON::PP::true, public => JSON::PP::true, as => $maps->{as},
		fields => { '360001' => '$.data.number', '360002' => '$.data.items' } });
	service('pagerduty~all', chatbot_id => 'settings', max_retries => 0, settings => {
		severity => { 'sentiment.negative' => 'info' }, app_url => 'https://app.example.com', as => { 'order.placed' => 'sentiment.negative' } });

	# one after the other, as the events of a conversation are
	foreach my $type (sort(keys %rich), sort keys %later)
	{
		next if $type =~ /^webhook/;
		emit('settings', $type, $rich{$type} // $later{$type}, 'c1');
		ok(wait_idle($node), "$type: the worker is done");
	}
	is(sql(q{SELECT webhook_name, event_type, last_error FROM chatwebhook.delivery WHERE chatbot_id = 'settings' AND (status <> 'delivered' OR attempts > 1)}),
		'', 'everything is delivered at once');
	is(refused(grep { $_->{label} =~ /~(bot|forum)/ } $services->log), '', 'Slack and Discord have refused nothing');

	my @slack = @{ $services->state('slack~bot')->{messages} };
	is(join(' ', map { $_->{message}{channel} } @slack), join(' ', ($known->{channel}) x 10), 'slack: a message for each event');
	is(join(' ', map { $_->{message}{thread_ts} // '-' } @slack), join(' ', '-', ($slack[0]{ts}) x 9), 'slack: in the thread of the first');
	like($json->encode($slack[5]{message}{blocks}), qr/\*Number:\*\\n17.*\*Each:\*|\*Each:\*\\na, b.*\*Number:\*/, 'slack: with mapped fields');
	my @discord = @{ $services->state('discord~forum')->{messages} };
	is(join(' ', map { $_->{thread} } @discord), join(' ', ($discord[0]{id}) x 10), 'discord: a message for each event, in one thread');
	is(join(' ', map { @{ $_->{pings} } } @discord), join(' ', ('<@&77>', '<@78>') x 3), 'discord: mentions for hand-offs and sales');

	my $hubspot = $services->state('hubspot~all');
	is(scalar @{ $hubspot->{contacts} }, 1, 'hubspot: one contact');
	is($hubspot->{contacts}[0]{properties}{plan__c}, 'pro', 'hubspot: a mapped property');
	like($hubspot->{notes}[0]{properties}{hs_note_body}, qr/Not taken by HubSpot: unknown__c = x/, 'hubspot: and one that it does not know, which the note has');
	is(scalar @{ $hubspot->{tickets} }, 1, 'hubspot: one ticket for two hand-offs');
	is(scalar(grep { $_->{type} eq 'tickets' } map { @{ $_->{associations} } } @{ $hubspot->{notes} }), 1, 'hubspot: the second is a note of the ticket');
	is($hubspot->{deals}[0]{properties}{deal_currency_code}, 'EUR', 'hubspot: a currency');

	my $salesforce = $services->state('salesforce~all');
	is(scalar @{ $salesforce->{Lead} }, 0, 'salesforce: no Lead beside the Contact');
	is(join(' ', map { $_->{ContactId} // '-' } @{ $salesforce->{Case} }), $contact, 'salesforce: one Case for two hand-offs');
	my ($again) = grep { ($_->{WhatId} // '') eq $salesforce->{Case}[0]{Id} } @{ $salesforce->{Task} };
	is($again->{WhoId}, $contact, 'salesforce: the second is a Task of the Case and the Contact');
	like($again->{Description}, qr/Not taken by Salesforce: No__c = x/, 'salesforce: with what Salesforce does not know in its Description');
	is($salesforce->{Opportunity}[0]{Amount}, 1234.5, 'salesforce: an Opportunity');

	my ($ticket, @others) = @{ $services->state('zendesk~all')->{tickets} };
	is(scalar @others, 0, 'zendesk: one ticket');
	is(join(' ', map { $_->{public} ? 'public' : 'internal' } @{ $ticket->{comments} }), 'public internal internal internal', 'zendesk: its comments');
	is_deeply($ticket->{custom_fields}, [ { id => 360001, value => 17 }, { id => 360002, value => [ 'a', 'b' ] } ], 'zendesk: custom fields');
	like($ticket->{comments}[2]{body} . $ticket->{comments}[3]{body}, qr/Not taken by Zendesk: \{"status": "solved"\}.*Assignee/s, 'zendesk: it cannot be solved, and says so');

	my @alerts = @{ $services->state('pagerduty~all')->{alerts} };
	is($alerts[-1]{event}{client_url}, 'https://app.example.com/conversations/c1', 'pagerduty: a link');
};
sql('DELETE FROM chatwebhook.webhook');

#
# Errors
#
my %event_for = (
	slack => 'message.sent', discord => 'message.sent', hubspot => 'lead.captured', salesforce => 'lead.captured',
	zendesk => 'handoff.requested', pagerduty => 'sentiment.negative');

# By label: what the service does, what becomes of the delivery, how many seconds
# it waits at least.
my %errors = (
	'slack~rate' => [ [ 'rate_limit', retry_after => 700 ], 'pending', 700 ],
	'slack~500' => [ [ 'status', status => 500 ], 'pending', 0 ],
	'slack~blocks' => [ [ 'status', status => 400, body => 'invalid_blocks' ], 'dead' ],
	'slack~action' => [ [ 'status', status => 403, body => 'action_prohibited' ], 'dead' ],
	'slack~channel' => [ [ 'status', status => 404, body => 'channel_not_found' ], 'dead' ],
	'slack~service' => [ [ 'status', status => 404, body => 'no_service' ], 'disabled' ],
	'slack~archived' => [ [ 'status', status => 410 ], 'disabled' ],
	'discord~rate' => [ [ 'rate_limit', retry_after => 700 ], 'pending', 700 ],
	'discord~body' => [ [ 'status', status => 429, body => { message => 'You are being rate limited.', retry_after => 700.5, global => JSON::PP::false } ],
		'pending', 700.5 ],
	'discord~form' => [ [ 'status', status => 400, body => { message => 'Invalid Form Body', code => 50035 } ], 'dead' ],
	'discord~gone' => [ [ 'status', status => 404 ], 'disabled' ],
	'discord~token' => [ [ 'status', status => 401 ], 'disabled' ],
	'discord~502' => [ [ 'status', status => 502 ], 'pending', 0 ],
	'hubspot~rate' => [ [ 'rate_limit', retry_after => 700 ], 'pending', 700 ],
	'hubspot~limit' => [ [ 'rate_limit' ], 'pending', 0 ],
	'hubspot~400' => [ [ 'status', status => 400 ], 'dead' ],
	'hubspot~403' => [ [ 'status', status => 403 ], 'dead' ],
	'salesforce~limit' => [ [ 'rate_limit' ], 'pending', 60 ],
	'salesforce~503' => [ [ 'status', status => 503, headers => { 'Retry-After' => 700 } ], 'pending', 700 ],
	'salesforce~400' => [ [ 'status', status => 400 ], 'dead' ],
	'zendesk~rate' => [ [ 'rate_limit', retry_after => 700 ], 'pending', 700 ],
	'zendesk~422' => [ [ 'status', status => 422 ], 'dead' ],
	'zendesk~503' => [ [ 'status', status => 503, headers => { 'Retry-After' => 700 } ], 'pending', 700 ],
	'pagerduty~rate' => [ [ 'rate_limit' ], 'pending', 60 ],
	'pagerduty~500' => [ [ 'status', status => 500 ], 'pending', 60 ],
	'pagerduty~400' => [ [ 'status', status => 400 ], 'dead' ]);

subtest 'what the services\' errors come to' => sub {
	foreach my $label (sort keys %errors)
	{
		my ($do, $what, $wait) = @{ $errors{$label} };
		my ($fault, %how) = @$do;
		# one that waits for no longer than its own back-off has a long one
		service($label, events => [ $event_for{ $label =~ s/~.*//r } ],
			defined $wait && $wait == 0 ? (backoff => '10 minutes', max_backoff => '10 minutes') : ());
		$services->control($label, $fault, times => 0, %how);
		emit($label, $event_for{ $label =~ s/~.*//r }, $rich{ $event_for{ $label =~ s/~.*//r } });
	}
	foreach my $label (sort keys %errors)
	{
		my (undef, $what, $wait) = @{ $errors{$label} };
		if ($what eq 'disabled')
		{
			becomes_true("SELECT NOT enabled AND disabled_reason IS NOT NULL FROM chatwebhook.webhook WHERE name = '$label'",
				"$label: the webhook is disabled, and says why");
		}
		else
		{
			becomes_true("SELECT attempts > 0 AND last_error IS NOT NULL AND status = '$what' FROM chatwebhook.delivery WHERE webhook_name = '$label'",
				"$label: the delivery is $what, and says why");
			is(sql("SELECT attempts FROM chatwebhook.delivery WHERE webhook_name = '$label'"), 1, "$label: after one attempt");
			is(sql("SELECT enabled FROM chatwebhook.webhook WHERE name = '$label'"), 't', "$label: the webhook is enabled");
			is(sql("SELECT next_attempt_at - last_attempt_at >= interval '$wait s' FROM chatwebhook.delivery WHERE webhook_name = '$label'"),
				't', "$label: it waits for $wait s at least") if $wait;
		}
		is(scalar(requests($label)), 1, "$label: one request was sent");
	}
	sql('DELETE FROM chatwebhook.webhook');

	# answers that are no outage
	my $key = { external_id_field => 'Chat_Event_Id__c' };
	service('salesforce~duplicate', events => ['lead.captured']);
	service('salesforce~several', events => ['lead.captured'], settings => $key);
	service('hubspot~other', events => ['lead.captured']);
	service('hubspot~busy', events => ['lead.captured']);
	# a duplicate that the lookup by address does not find
	$services->control('salesforce~duplicate', 'status', status => 400, match => 'sobjects',
		body => [ { errorCode => 'DUPLICATES_DETECTED', message => 'Use one of these records?' } ]);
	$services->control('salesforce~several', 'status', status => 300, match => 'sobjects',
		body => [ '/services/data/v68.0/sobjects/Lead/00Q000000000001AAA', '/services/data/v68.0/sobjects/Lead/00Q000000000002AAA' ]);
	my $contact = $services->control('hubspot~other', 'seed', object => 'contacts', fields => { email => 'countess@example.com' })->{id};
	$services->control('hubspot~other', 'status', status => 409, skip => 1, body => {
		status => 'error', category => 'CONFLICT', message => "Contact already exists. Existing ID: $contact" });
	$services->control('hubspot~busy', 'status', status => 409);
	emit($_, 'lead.captured', $rich{'lead.captured'})
	  foreach 'salesforce~duplicate', 'salesforce~several', 'hubspot~other', 'hubspot~busy';
	becomes_true(q{SELECT count(*) = 4 FROM chatwebhook.delivery WHERE status <> 'pending' AND webhook_name IN
			('salesforce~duplicate', 'salesforce~several', 'hubspot~other', 'hubspot~busy')},
		'all are finished');
	like(outcome('salesforce~duplicate'), qr/^dead after 1 .*400/, 'a duplicate at Salesforce is final');
	is(outcome('salesforce~several'), 'delivered after 1', 'several records with the event\'s id are no error');
	is(outcome('hubspot~other'), 'delivered after 1', 'a contact by another address is the contact');
	is($services->state('hubspot~other')->{notes}[0]{associations}[0]{to}, $contact, 'which gets the note');
	is(outcome('hubspot~busy'), 'delivered after 2', 'another conflict is tried again');
};
sql('DELETE FROM chatwebhook.webhook');

# A status of success proves nothing.
subtest 'replies that are none of the service\'s' => sub {
	my %replies = (
		page => [ { 'Content-Type' => 'text/html' }, '<!DOCTYPE html><title>Sign in</title> ok' ],
		empty => [ {}, {} ],
		not => [ {}, { ok => JSON::PP::false } ],
		blanks => [ { 'Content-Type' => 'application/json' }, "{ \"ok\" :\n false , \"error\" : \"internal_error\" }" ],
		list => [ {}, [] ]);
	foreach my $connector (sort keys %event_for)
	{
		foreach my $what (sort keys %replies)
		{
			my $label = "$connector~$what";
			my ($headers, $body) = @{ $replies{$what} };
			service($label, events => [ $event_for{$connector} ], max_retries => 0);
			$services->control($label, 'status', times => 0, status => $connector eq 'pagerduty' ? 202 : 200, headers => $headers, body => $body);
			emit($label, $event_for{$connector}, $rich{ $event_for{$connector} });
		}
	}
	ok(wait_idle($node), 'the worker is done');
	foreach my $connector (sort keys %event_for)
	{
		foreach my $what (sort keys %replies)
		{
			like(outcome("$connector~$what"), qr/^dead after 1 unexpected reply: /, "$connector: $what is no success, and the error says what came");
		}
	}
};
sql('DELETE FROM chatwebhook.webhook');

#
# Tokens
#
subtest 'a token that has expired is renewed, once' => sub {
	foreach my $label ('salesforce~expired', 'zendesk~expired')
	{
		my $type = $event_for{ $label =~ s/~.*//r };
		service($label, events => [$type], max_retries => 0);
		emit($label, $type, $rich{$type}, 'first');
		ok(wait_idle($node), 'the worker is done');
		$services->control($label, 'expire_tokens');
		emit($label, $type, $rich{$type}, 'second');
		ok(wait_idle($node), 'the worker is done');
		is(outcome($label), "delivered after 1\ndelivered after 1", "$label: both are delivered at once");
		is($services->state($label)->{token_requests}, 2, "$label: with two tokens");
		is(scalar(grep { ($_->{status} // 0) == 401 } requests($label)), 1, "$label: one request was refused");

		# a new token does not help
		$services->control($label, 'status', status => 401, times => 0);
		emit($label, $type, $rich{$type}, 'third');
		becomes_true("SELECT bool_and(status <> 'pending') FROM chatwebhook.delivery WHERE webhook_name = '$label'", "$label: the third is finished");
		like((split /\n/, outcome($label))[2], qr/^dead after 1 .*401/, "$label: and dead");
		cmp_ok($services->state($label)->{token_requests}, '<=', 3, "$label: one more token was asked for at most");
	}

	# the token endpoint itself
	my %endpoint = (
		'salesforce~secret' => [ [ 'status', status => 400, body => { error => 'invalid_client', error_description => 'invalid client credentials' } ], qr/token|400/ ],
		'zendesk~secret' => [ [ 'status', status => 401, body => { error => 'invalid_client' } ], qr/token|401/ ],
		'salesforce~nonsense' => [ [ 'status', status => 200, body => 'no token' ], qr/token/ ],
		'salesforce~down' => [ [ 'status', status => 503 ], qr/token|503/ ],
		'salesforce~lost' => [ [ 'lose_reply' ], qr/./ ]);
	foreach my $label (sort keys %endpoint)
	{
		my ($fault, %how) = @{ $endpoint{$label}[0] };
		my $type = $event_for{ $label =~ s/~.*//r };
		service($label, events => [$type], max_retries => 0);
		$services->control($label, $fault, match => 'oauth', times => 0, %how);
		emit($label, $type, $rich{$type});
	}
	foreach my $label (sort keys %endpoint)
	{
		# the words of these messages may be others
		becomes_true(qq{SELECT status = 'dead' OR EXISTS (SELECT FROM chatwebhook.webhook WHERE name = '$label' AND NOT enabled)
				FROM chatwebhook.delivery WHERE webhook_name = '$label'}, "$label: it comes to an end");
		like(outcome($label) . sql("SELECT disabled_reason FROM chatwebhook.webhook WHERE name = '$label'"),
			$endpoint{$label}[1], "$label: and says why");
		is(scalar(requests($label)), 0, "$label: nothing was sent without a token");
	}

	# nothing can renew this one
	service('hubspot~expired', events => ['lead.captured'], max_retries => 0);
	$services->control('hubspot~expired', 'expire_tokens');
	emit('hubspot~expired', 'lead.captured', $rich{'lead.captured'});
	ok(wait_idle($node), 'the worker is done');
	like(outcome('hubspot~expired'), qr/^dead after 1 .*401/, 'a bearer token that has expired is an error');
	is(scalar(requests('hubspot~expired')), 1, 'and not tried twice');
};
sql('DELETE FROM chatwebhook.webhook');

subtest 'a hundred deliveries, one token' => sub {
	my $label = 'salesforce~hundred';
	# each of another visitor
	my $emit = sub {
		my ($prefix) = @_;
		sql("SELECT count(chatwebhook.emit('lead.captured', '$label', '$prefix' || n, " . jsonb($rich{'lead.captured'})
			  . " || jsonb_build_object('email', '$prefix' || n || '\@example.com'))) FROM generate_series(1, 100) n");
	};
	service($label, events => ['lead.captured'], max_retries => 0, max_in_flight => 50, timeout => '5 minutes',
		settings => { external_id_field => 'Chat_Event_Id__c' });
	emit($label, 'lead.captured', $rich{'lead.captured'});
	ok(wait_idle($node), 'the worker is done');
	is($services->state($label)->{token_requests}, 1, 'the first delivery has fetched a token');

	$services->control($label, 'expire_tokens');
	$emit->('a');
	ok(wait_idle($node), 'the worker is done');
	is($services->state($label)->{token_requests}, 2, 'a hundred, when it has expired: one more');
	is(scalar @{ $services->state($label)->{Lead} }, 101, 'each has arrived, once');

	# a worker without any token, and an endpoint that takes its time
	my $pid = worker_pid();
	sql("SELECT pg_terminate_backend($pid)");
	$services->control($label, 'hang', match => 'oauth');
	my $sent = requests($label);
	$emit->('b');
	ok($services->wait_until(sub { grep { ($_->{fault} // '') eq 'hang' } $services->log($label) }), 'it asks for a token');
	isnt(worker_pid(), $pid, 'which is another worker');
	is(scalar(requests($label)), $sent, 'and sends nothing meanwhile');
	$services->control($label, 'release');
	ok(wait_idle($node), 'the worker is done');
	is($services->state($label)->{token_requests}, 3, 'a hundred, without a token: one more');
	is(scalar @{ $services->state($label)->{Lead} }, 201, 'each has arrived, once');
	is(sql("SELECT DISTINCT status, attempts FROM chatwebhook.delivery WHERE webhook_name = '$label'"), 'delivered|1', 'at the first attempt');
};
sql('DELETE FROM chatwebhook.webhook');

#
# Bad connectors
#
my $arguments = '(event jsonb, webhook jsonb, replies jsonb) RETURNS chatwebhook.request';

# Register a connector made of this body; it is used by a webhook of that name.
sub connector
{
	my ($name, $body, %more) = @_;
	my $chatbot = $more{chatbot} // 'bad';
	my $language = $more{language} // 'sql';
	my $owner = $more{owner} // '';
	script(($owner ? "SET ROLE $owner; " : '')
		  . "CREATE FUNCTION public.c_$name$arguments LANGUAGE $language STABLE AS \$\$ $body \$\$; "
		  . "INSERT INTO chatwebhook.connector (name, function, description) VALUES ('$name', 'public.c_$name', 'A test')");
	create_webhook($node, name => $name, chatbot_id => $chatbot, connector => $name, max_retries => 0);
	return;
}

# ROW(...) of a request.
sub row
{
	return 'SELECT ROW(' . join(', ', @_) . ')::chatwebhook.request';
}

subtest 'bad connectors' => sub {
	# the connector's name is in most of them: what is matched must not be in that
	my %bad = (
		raises => [ q{BEGIN RAISE EXCEPTION 'out of luck'; END}, qr/: out of luck$/, 'plpgsql' ],
		divides => [ q{SELECT ROW(NULL, NULL, NULL, to_jsonb(1 / jsonb_array_length(replies)), true)::chatwebhook.request}, qr/: division by zero$/ ],
		method => [ row(q{'FROB'}, 'NULL', 'NULL', q{'{}'}, 'true'), qr/its method is "FROB", and not GET/ ],
		lower => [ row(q{'post'}, 'NULL', 'NULL', q{'{}'}, 'true'), qr/its method is "post", and not GET/ ],
		url => [ row('NULL', q{'not a url'}, 'NULL', q{'{}'}, 'true'), qr/its URL has a character that must be percent-encoded/ ],
		scheme => [ row('NULL', q{'file:///etc/passwd'}, 'NULL', q{'{}'}, 'true'), qr/the scheme is not http or https/ ],
		braces => [ row('NULL', q{webhook->>'url' || '/{{signing_secret}}'}, 'NULL', q{'{}'}, 'true'), qr/its URL has a character that must be percent-encoded/ ],
		empty => [ row('NULL', q{''}, 'NULL', q{'{}'}, 'true'), qr/its URL is empty/ ],
		array => [ row('NULL', 'NULL', q{'[1]'}, q{'{}'}, 'true'), qr/its headers: they are not an object/ ],
		nested => [ row('NULL', 'NULL', q{'{"X-A": {}}'}, q{'{}'}, 'true'), qr/its headers: the value of "X-A" is not a string/ ],
		reserved => [ row('NULL', 'NULL', q{'{"webhook-id": "x"}'}, q{'{}'}, 'true'), qr/its headers: "webhook-id" is set by the extension/ ],
		newline => [ row('NULL', 'NULL', q{'{"X-A": "a\r\nX-B: b"}'}, q{'{}'}, 'true'), qr/its headers: the value of "X-A" is not 1 to 4096 printable/ ],
		get_body => [ row(q{'GET'}, 'NULL', 'NULL', q{'{}'}, 'true'), qr/it is a GET with a body/ ],
		large => [ row('NULL', 'NULL', 'NULL', q{to_jsonb(repeat('x', 20000000))}, 'true'), qr/its body is larger than chatwebhook\.max_payload_size/ ],
		endless => [ row('NULL', 'NULL', 'NULL', q{'{}'}, 'false'), qr/it asks for more than 20 requests/ ],
		dropped => [ row('NULL', 'NULL', 'NULL', q{'{}'}, 'true'), qr/function "public\.c_dropped\(jsonb,jsonb,jsonb\)" does not exist/ ],
		forgotten => [ row('NULL', 'NULL', 'NULL', q{'{}'}, 'true'), qr/no connector is called "forgotten"/ ],
		rights => [ q{SELECT ROW(NULL, NULL, NULL, to_jsonb(count(*)), true)::chatwebhook.request FROM public.private}, qr/permission denied for table private/ ],
		writes => [ q{BEGIN INSERT INTO public.private VALUES (1); RETURN ROW(NULL, NULL, NULL, '{}', true); END},
			qr/INSERT is not allowed in a non-volatile function/, 'plpgsql' ],
		dynamic => [ q{BEGIN EXECUTE 'INSERT INTO public.private VALUES (1)'; RETURN ROW(NULL, NULL, NULL, '{}', true); END},
			qr/INSERT is not allowed in a non-volatile function/, 'plpgsql' ],
		sequence => [ q{SELECT ROW(NULL, NULL, NULL, to_jsonb(nextval('public.counter')), true)::chatwebhook.request}, qr/cannot execute nextval\(\) in a read-only transaction/ ],
		superuser => [ q{SELECT ROW(NULL, NULL, NULL, to_jsonb(value), true)::chatwebhook.request FROM chatwebhook.vault}, qr/permission denied for table vault/ ]);
	# these do not come to an end by themselves, or after long
	my %slow = (
		sleeps => [ q{SELECT ROW(NULL, NULL, NULL, to_jsonb(pg_sleep(1000)::text), true)::chatwebhook.request}, qr/took longer than 300 ms/ ],
		loops => [ q{BEGIN LOOP END LOOP; END}, qr/took longer than 300 ms/, 'plpgsql' ],
		catches => [ q{BEGIN LOOP BEGIN PERFORM pg_sleep(1000); EXCEPTION WHEN OTHERS THEN NULL; END; END LOOP; END},
			qr/took longer than 300 ms/, 'plpgsql' ],
		recurses => [ q{BEGIN RETURN public.c_recurses(event, webhook, replies); END}, qr/stack depth|took longer than 300 ms/, 'plpgsql' ]);
	# these are allowed: they come to an end as they do, and harm nobody
	my %odd = (
		nothing => 'SELECT NULL::chatwebhook.request',
		nulls => row(('NULL') x 5),
		scalar => row('NULL', 'NULL', 'NULL', q{'5'}, 'true'),
		text => row('NULL', 'NULL', 'NULL', q{'"text"'}, 'true'),
		jsonnull => row('NULL', 'NULL', 'NULL', q{'null'}, 'true'),
		none => 'SELECT r FROM (SELECT NULL::chatwebhook.request AS r) AS s WHERE false');

	script(q{CREATE ROLE maker; CREATE TABLE public.private (a int); CREATE SEQUENCE public.counter;
		GRANT ALL ON public.private, public.counter TO maker; GRANT CREATE ON SCHEMA public TO maker;
		SELECT chatwebhook.grant_admin('maker')});
	foreach my $name (sort keys %bad)
	{
		my ($body, undef, $language) = @{ $bad{$name} };
		my $owner = { map { $_ => 'maker' } qw(rights superuser) }->{$name};
		connector($name, $body, language => $language // 'sql', owner => $owner // '');
	}
	connector($_, $slow{$_}[0], chatbot => 'slow', language => $slow{$_}[2] // 'sql') foreach sort keys %slow;
	connector($_, $odd{$_}) foreach sort keys %odd;
	my ($code, undef, $err) = $node->psql('postgres', "DELETE FROM chatwebhook.connector WHERE name = 'forgotten'");
	like($err, qr/is used by webhook/, 'a connector in use cannot be deleted');
	($code, undef, $err) = $node->psql('postgres', "UPDATE chatwebhook.connector SET name = 'renamed' WHERE name = 'forgotten'");
	like($err, qr/cannot rename connector "forgotten" because webhooks use it/, 'nor renamed');
	script(q{DROP FUNCTION public.c_dropped; REVOKE ALL ON public.private FROM maker;
		BEGIN; SET LOCAL session_replication_role = replica; DELETE FROM chatwebhook.connector WHERE name = 'forgotten'; COMMIT});

	# those that must not suffer; the worker also hears by them that something has
	# changed, since the trigger on the connectors was kept from firing
	create_webhook($node, name => 'plain', chatbot_id => 'bad', max_retries => 0);
	service('slack~good', chatbot_id => 'bad', max_retries => 0);
	service('hubspot~good', chatbot_id => 'bad', max_retries => 0);
	my $worker = worker_pid();
	my $good = sub {
		my ($n, $what) = @_;
		becomes_true(qq{SELECT count(*) = $n FROM chatwebhook.delivery
			WHERE webhook_name IN ('plain', 'slack~good', 'hubspot~good')
				AND event_type = 'lead.captured' AND status = 'delivered'}, $what);
	};
	emit('bad', 'lead.captured', $rich{'lead.captured'});
	$good->(3, 'the good ones are delivered');

	my $finished = sub {
		my ($name) = @_;
		return qq{SELECT NOT w.enabled OR d.status <> 'pending' FROM chatwebhook.webhook w
			LEFT JOIN chatwebhook.delivery d ON d.webhook_id = w.id AND d.event_type = 'lead.captured'
			WHERE w.name = '$name'};
	};
	my $fails = sub {
		my ($name, $why) = @_;
		becomes_true($finished->($name), "$name: it comes to an end");
		my $said = outcome($name) . sql("SELECT ' ' || disabled_reason FROM chatwebhook.webhook WHERE name = '$name' AND NOT enabled");
		unlike($said, qr/^delivered/, "$name: not delivered");
		like($said, $why, "$name: it says why");
		is($receiver->count($name), 0, "$name: nothing was sent") if $name ne 'endless';
	};
	$fails->($_, $bad{$_}[1]) foreach sort keys %bad;
	is($receiver->count('endless'), 20, 'endless: 20 requests and no more');
	foreach my $name (sort keys %odd)
	{
		becomes_true($finished->($name), "$name: it comes to an end");
		note("$name: " . outcome($name));
	}
	is(outcome($_), 'delivered after 0', "$_: delivered, with nothing to send") foreach 'nothing', 'none';
	is($receiver->count('nothing') + $receiver->count('none'), 0, 'and nothing sent');
	is(sql('SELECT count(*) FROM public.private'), 0, 'nothing was written');
	is(sql('SELECT is_called FROM public.counter'), 'f', 'not even a sequence');

	# Those that take too long, beside a steady flow.  A slow machine may take too
	# long for the good ones as well, so they may try again.
	sql(q{DELETE FROM chatwebhook.webhook WHERE name NOT IN ('sleeps', 'loops', 'catches', 'recurses', 'plain', 'slack~good', 'hubspot~good')});
	sql(q{UPDATE chatwebhook.webhook SET max_retries = 100 WHERE name LIKE '%good'});
	sql(q{ALTER SYSTEM SET chatwebhook.connector_timeout = '300ms'});
	$node->reload;
	wait_until(q{SELECT current_setting('chatwebhook.connector_timeout') = '300ms'}) or die;
	emit('slow', 'lead.captured', $rich{'lead.captured'});
	$fails->($_, $slow{$_}[1]) foreach sort keys %slow;
	sql(q{DELETE FROM chatwebhook.webhook WHERE name IN ('catches', 'recurses')});
	my $many = 10;
	sql("SELECT count(chatwebhook.emit('lead.captured', 'slow', 'c' || n, " . jsonb($rich{'lead.captured'}) . ")) FROM generate_series(1, $many) n");
	emit('bad', 'lead.captured', { %{ $rich{'lead.captured'} }, email => "n$_\@example.com" }) foreach 1 .. 5;
	$good->(18, 'the good ones go on');
	cmp_ok(sql(q{SELECT count(*) FROM chatwebhook.queue WHERE chatbot_id = 'slow'}), '>', $many,
		'while most of what is slow still waits');
	is(worker_pid(), $worker, 'by the same worker');

	# put right, they send what waits, and what is dead when it is tried again
	sql('CREATE OR REPLACE FUNCTION public.c_' . $_ . $arguments . ' LANGUAGE sql STABLE AS $$ '
		  . row('NULL', 'NULL', 'NULL', 'event', 'true') . ' $$') foreach 'sleeps', 'loops';
	sql('ALTER SYSTEM RESET chatwebhook.connector_timeout');
	$node->reload;
	becomes_true(q{SELECT bool_and(status <> 'pending') FROM chatwebhook.delivery WHERE webhook_name IN ('sleeps', 'loops')},
		'connectors that are put right go on');
	sql(q{SELECT chatwebhook.retry(id) FROM chatwebhook.dead_letter WHERE webhook_name IN ('sleeps', 'loops')});
	becomes_true(q{SELECT bool_and(status = 'delivered') FROM chatwebhook.delivery WHERE webhook_name IN ('sleeps', 'loops')},
		'and deliver what was dead');
};

#
# Secrets
#
my %secrets;
{
	my %kept = (
		'Slack URL' => [ 'slack', 'path' ],
		'Discord token' => [ 'discord', 'token' ],
		'HubSpot token' => [ 'hubspot', 'access_token' ],
		'Salesforce client secret' => [ 'salesforce', 'client_secret' ],
		'Zendesk client secret' => [ 'zendesk', 'client_secret' ],
		'Zendesk API token' => [ 'zendesk', 'api_token' ],
		'PagerDuty routing key' => [ 'pagerduty', 'routing_key' ]);
	$secrets{$_} = $services->credentials($kept{$_}[0])->{ $kept{$_}[1] } foreach keys %kept;
	$secrets{'Slack token'} = (split m{/}, $secrets{'Slack URL'})[-1];
	my $zendesk = $services->credentials('zendesk');
	$secrets{'basic authentication'} = encode_base64("$zendesk->{username}:$zendesk->{api_token}", '');
	my $state = $services->state;
	foreach my $label (grep { ref $state->{$_} eq 'HASH' } keys %$state)
	{
		my $n = 0;
		$secrets{ "token $label " . ++$n } = $_ foreach @{ $state->{$label}{tokens} };
	}
}

# Which secrets, or the ends of which, are in a text.
sub is_clean
{
	my ($text, $what) = @_;
	my @found;

	cmp_ok(length $text, '>', 0, "$what: there is something") or return;
	foreach my $name (sort keys %secrets)
	{
		push @found, $name
		  if grep { index($text, $_) >= 0 } $secrets{$name}, substr($secrets{$name}, -16);
	}
	return is(join(', ', @found), '', "$what: no secret");
}

subtest 'secrets' => sub {
	cmp_ok(scalar(grep { /^token/ } keys %secrets), '>', 5, 'there were tokens');
	my $sent = $json->encode([ $services->log ]);
	is(join(', ', grep { index($sent, $secrets{$_}) < 0 } grep { !/^token|API token/ } sort keys %secrets), '',
		'each of them was sent');
	is_clean($shown, 'what preview() and test_webhook() have shown');
	foreach my $relation (split /\n/, sql(q{SELECT oid::regclass FROM pg_class WHERE relnamespace = 'chatwebhook'::regnamespace
			AND relkind IN ('r', 'p', 'v', 'm') AND relname <> 'vault'}))
	{
		my $content = sql("SELECT t::text FROM $relation t");
		is_clean($content, $relation) if $content ne '';
	}
	is_clean(sql(q{SELECT string_agg(concat_ws(' ', url, settings, auth, headers), ' ') FROM chatwebhook.webhook}), 'the webhooks');
	is_clean(sql(q{SELECT string_agg(a::text, ' ') FROM pg_stat_activity a WHERE pid <> pg_backend_pid()}), 'pg_stat_activity');
	is_clean(slurp_file($node->logfile), 'the server\'s log, at debug1');
	like(slurp_file($node->logfile), qr/DEBUG:/, 'which is at debug1');
	unlike(slurp_file($node->logfile), qr/PANIC|TRAP|terminated by signal/, 'no process has crashed');
};

$node->stop;
done_testing();
