# The connector cloudevents, as receivers of CloudEvents see it.
#
# Only other people's libraries can show that what the worker sends is a
# CloudEvent: the npm package cloudevents reads and validates every request, and
# standardwebhooks and svix verify it, in the structured and the binary mode and
# in batches, with the data that has made others stumble and ids that do not fit
# into headers as they are.

use strict;
use warnings;

use FindBin;
use lib "$FindBin::Bin/../lib";

use Chatwebhook;
use IPC::Run ();
use JSON::PP ();
use PostgreSQL::Test::Utils;
use Test::More;

my $node_program = $ENV{NODE} // 'node';

# Run a program and return its output; undef if that fails or takes too long.
sub output_of
{
	my (@command) = @_;
	my ($out, $err) = ('', '');
	my $ok = eval {
		IPC::Run::run(\@command, '<', \undef, '>', \$out, '2>', \$err,
			IPC::Run::timeout($PostgreSQL::Test::Utils::timeout_default));
	};
	note("@command[0, 1]: ", $@ || $err) if !$ok;
	return $ok ? $out : undef;
}

my $version = output_of($node_program, '--version');
plan skip_all => "there is no Node.js ($node_program)" if !defined $version;
plan skip_all => "Node.js is of version $version, older than 18.3"
  if $version !~ /^v(\d+)\.(\d+)/ || $1 < 18 || ($1 == 18 && $2 < 3);

# The directory that has the packages.
my $modules = $ENV{CHATWEBHOOK_NODE_MODULES};
if (!$modules)
{
	$modules = PostgreSQL::Test::Utils::tempdir('npm');
	local $ENV{npm_config_cache} = "$modules/cache";
	output_of(
		'npm', 'install',
		'--prefix' => $modules,
		'--no-audit', '--no-fund', '--no-update-notifier', '--ignore-scripts',
		'--fetch-retries=0', '--fetch-timeout=20000',
		'cloudevents@10.0.0', 'standardwebhooks@1.1.1', 'svix@1.99.1');
}
foreach my $package (qw(cloudevents standardwebhooks svix))
{
	plan skip_all => "the npm package $package is not there, and cannot be fetched"
	  if !-d "$modules/node_modules/$package";
}

my $receiver = start_receiver(program => 'receiver.js', args => [ '--modules' => $modules ]);
my $node = new_node('main');

# Awkward data, a line each, and more that has no text or much of it.
my $values = output_of($node_program, "$Chatwebhook::lib/json_values.js", 'awkward') // die "no values";
my $count = $values =~ tr/\n//;
cmp_ok($count, '>=', 300, "$count awkward values");
script(q{
	CREATE TABLE line (n int GENERATED ALWAYS AS IDENTITY, value jsonb);
	CREATE TABLE id (n int GENERATED ALWAYS AS IDENTITY, value text);
	INSERT INTO id (value) VALUES
		(NULL), ('c-1'), ('a/b?c#d/../e'), (E'"quoted" and \'so\''), ('100%'), ('%41%20%zz'), (' blanks '),
		(E'Zo\u00eb'), (E'\u4e2d\u6587'), (E'\U0001F600\U0001F468\u200d\U0001F469'), (E'\u2028\u0085\ufeff'),
		(E'tab\tline\r\nbell\x07'), (E'\x01\x7f'), ('\\ back\\slash'), ('<a&b;c,d=e>'), ('{{token}}'), (repeat('x', 2000)),
		(repeat(E'\u00eb', 1000)), (repeat(E'\U0001F600', 500)), (repeat(' ', 2000)), (repeat('x', 16000)), ('');
	INSERT INTO chatwebhook.event_type (name) VALUES ('awkward');
});
$node->safe_psql('postgres', "COPY line (value) FROM STDIN;\n" . ($values =~ s/\\/\\\\/gr) . "\\.\n");
my $ids = sql('SELECT count(*) FROM id');

# Emit all of it to a webhook, and have the packages read what has come.
sub deliver
{
	my ($name, %columns) = @_;
	my $rotate = delete $columns{rotate};
	my ($id, $secret) = create_webhook(
		$node,
		name => $name,
		connector => 'cloudevents',
		events => ['awkward'],
		max_retries => 0,
		%columns);
	my $sent = 0;
	# the receiver goes on knowing the old secret
	foreach my $part ($rotate ? ('n % 2 = 0', 'n % 2 <> 0') : 'true')
	{
		$sent += sql(qq{
			SELECT count(chatwebhook.emit('awkward',
				(SELECT value FROM id WHERE id.n = 1 + line.n / $ids % $ids),
				(SELECT value FROM id WHERE id.n = 1 + line.n % $ids), value))
			FROM (SELECT n, value FROM line UNION ALL SELECT -n, '{}' FROM generate_series(1, $ids - 1) n) line WHERE $part});
		$receiver->wait_for(1 + int rand 20, $name) if $rotate;
		sql(qq{SELECT chatwebhook.rotate_secret('$id', '1 hour')}) if $rotate && $part =~ /=\s0/;
	}
	ok(wait_idle($node), "$name: the worker is done");
	is(sql(qq{SELECT failures, last_error FROM chatwebhook.webhook_health WHERE webhook_id = '$id'}),
		'0|', 'the receiver accepted every request');

	my $events = "${PostgreSQL::Test::Utils::tmp_check}/$name.jsonl";
	my $log = "${PostgreSQL::Test::Utils::tmp_check}/$name.log.jsonl";
	append_to_file($events,
		sql(q{SELECT jsonb_build_object('id', id, 'type', type, 'chatbotId', chatbot_id,
			'conversationId', conversation_id, 'data', data, 'timestamp',
			to_char(created_at AT TIME ZONE 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.MS"Z"'))
			FROM chatwebhook.event WHERE type = 'awkward'}) . "\n");
	append_to_file($log, join '', grep { /"label":"$name"/ } map { "$_\n" } split /\n/, slurp_file($receiver->log_file));
	my $result = JSON::PP->new->decode(
		output_of($node_program, "$Chatwebhook::lib/cloudevents.js", $modules, $secret, $log, $events)
		  // die "cloudevents.js has failed");
	diag("$name: $_") foreach @{ $result->{problems} };
	is_deeply($result->{problems}, [], 'each is the event that was emitted');
	is($result->{distinct}, $sent, "all $sent events have come");
	if ($rotate)
	{
		# the receiver has refused what began with the new secret
		cmp_ok($result->{events}, '>', $sent, 'some twice');
		cmp_ok($result->{events}, '<', 2 * $sent, 'but only what was under way then');
	}
	else
	{
		is($result->{events}, $sent, 'once');
	}
	my $requests = $result->{binary} + $result->{structured} + $result->{batch};
	is($result->{$_}, $requests, "the package $_ accepts all $requests requests") foreach qw(standardwebhooks svix);
	is($result->{read}, $requests, 'and cloudevents reads and validates them');
	sql(qq{DELETE FROM chatwebhook.webhook WHERE id = '$id'});
	sql(q{DELETE FROM chatwebhook.event});
	return ($result, $sent);
}

subtest 'structured' => sub {
	my ($result, $sent) = deliver('structured');
	is($result->{structured}, $sent, 'each is a request in the structured mode');
};

subtest 'binary' => sub {
	my ($result, $sent) = deliver('binary', settings => { mode => 'binary' });
	cmp_ok($result->{binary}, '>=', 250, "$result->{binary} requests are in the binary mode");
	is($result->{structured}, $result->{structured_long}, "$result->{structured}, with an id too long for a header, structured");
	cmp_ok($result->{structured}, '>', 0, 'there are such');
	is($result->{binary} + $result->{structured}, $sent, 'and no others');
};

subtest 'in batches' => sub {
	my ($result, $sent) = deliver('batch', batch_size => 7, batch_window => '1 second');
	is($result->{batch}, $result->{read}, 'all requests are batches');
	cmp_ok($result->{batch}, '<', $sent / 2, "$result->{batch} of them");
};

subtest 'with both signings, through a rotation' => sub {
	deliver('structured_rotated', signing => 'v1,v1a', rotate => 1);
	deliver('binary_rotated', signing => 'v1,v1a', rotate => 1, settings => { mode => 'binary' });
	deliver('batch_rotated', signing => 'v1,v1a', rotate => 1, batch_size => 7, batch_window => '100 ms');
};

subtest 'test_webhook()' => sub {
	my ($id) = create_webhook($node, name => 'test', connector => 'cloudevents',
		settings => { mode => 'binary', source => 'https://example.com/a%20b', type_prefix => 'com.example' });
	is(sql(qq{SELECT success, status_code FROM chatwebhook.test_webhook('$id')}), 't|200', 'is accepted');
	my ($request) = $receiver->log('test');
	is_deeply(
		[ map { $request->{headers}{$_} } qw(content-type ce-source ce-type ce-subject) ],
		[ 'application/json', 'https://example.com/a%2520b', 'com.example.webhook.test', undef ],
		'and has the settings applied');
};

# Were they to accept anything, nothing above would say much.
subtest 'what is not so is seen' => sub {
	my ($id, $secret) = create_webhook($node, name => 'wrong', connector => 'cloudevents', events => ['awkward']);
	sql(q{SELECT chatwebhook.emit('awkward', 'shop', 'c-1', '{"n": 1}')});
	ok(wait_idle($node), 'the worker is done');
	my ($line) = grep { /"label":"wrong"/ } split /\n/, slurp_file($receiver->log_file);
	my $event = sql(q{SELECT jsonb_build_object('id', id, 'type', type, 'chatbotId', chatbot_id,
		'conversationId', 'c-2', 'data', data, 'timestamp', created_at) FROM chatwebhook.event});
	my $base = "${PostgreSQL::Test::Utils::tmp_check}/wrong";
	append_to_file("$base.jsonl", "$event\n");
	append_to_file("$base.log.jsonl", ($line =~ s/\\"source\\"/\\"sourcf\\"/r) . "\n" . ($line =~ s/shop/shoq/r) . "\n");
	my $result = JSON::PP->new->decode(
		output_of($node_program, "$Chatwebhook::lib/cloudevents.js", $modules, $secret, "$base.log.jsonl", "$base.jsonl"));
	is($result->{svix} + $result->{standardwebhooks}, 0, 'no package accepts what was changed');
	is($result->{read}, 1, 'nor cloudevents what has no source');
	is(scalar(@{ $result->{problems} }), 5, 'and another subject, say, is noticed, too') or diag explain $result;
};

$node->stop;
done_testing();
