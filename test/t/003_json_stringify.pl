# The body, as a receiver in JavaScript sees it.
#
# Only JavaScript itself can show that the bytes that arrive are those that
# JSON.stringify() makes of what JSON.parse() has read, whatever the data, so that
# a receiver that checks X-Webhook-Signature over the value serialized anew
# accepts every request, and that no data was lost on the way.
#
# CHATWEBHOOK_TEST_SEED repeats the random values of an earlier run.

use strict;
use warnings;

use FindBin;
use lib "$FindBin::Bin/../lib";

use Chatwebhook;
use IPC::Run ();
use JSON::PP ();
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;

my $count = 10_000;
my $node_program = $ENV{NODE} // 'node';
my $json_values = "$Chatwebhook::lib/json_values.js";

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

# A file of values, a line each.
sub values_file
{
	my ($name, @arguments) = @_;
	my $file = "${PostgreSQL::Test::Utils::tmp_check}/$name.jsonl";
	my $values = output_of($node_program, $json_values, @arguments)
	  // die "no values";
	append_to_file($file, $values);
	return ($file, $values =~ tr/\n//);
}

# Compare what a receiver has logged with such a file.
sub compare
{
	my ($values, $receiver) = @_;
	my $result = JSON::PP->new->decode(
		output_of($node_program, $json_values, 'compare', $values,
			$receiver->log_file));
	diag(explain($result->{examples})) if @{ $result->{examples} };
	return $result;
}

# Run SQL, after the lines of a file were copied into table "line".
sub sql_with_lines
{
	my ($file, $sql) = @_;
	my $lines = slurp_file($file) =~ s/\\/\\\\/gr;
	return $main::node->safe_psql('postgres',
		"TRUNCATE line RESTART IDENTITY;
		 COPY line (value) FROM STDIN;\n$lines\\.\n$sql");
}

our $node = new_node('main');
script(q{
	CREATE TABLE line (n int GENERATED ALWAYS AS IDENTITY, value jsonb);
	CREATE TABLE random (n int, value jsonb);
	INSERT INTO chatwebhook.event_type (name) VALUES ('random'), ('awkward'), ('exact');
	CREATE TRIGGER emit AFTER INSERT ON random
		REFERENCING NEW TABLE AS new_rows FOR EACH STATEMENT
		EXECUTE FUNCTION chatwebhook.emit('random', 'conversationId=n', 'value');
});

subtest 'random values' => sub {
	my $seed = $ENV{CHATWEBHOOK_TEST_SEED} // int(rand(2**32));
	diag("seed $seed");
	my $receiver = start_receiver(program => 'receiver.js');
	my ($values, $lines) = values_file('random', 'random', $seed, $count);
	is($lines, $count, "$count values, seed $seed");
	create_webhook(
		$node,
		name => 'random',
		events => ['random'],
		max_retries => 0);
	sql_with_lines($values, 'INSERT INTO random SELECT n, value FROM line');
	ok(wait_idle($node), 'the worker is done');

	my $result = compare($values, $receiver);
	is($result->{arrived}, $count, 'each has arrived');
	is($result->{requests}, $count, 'once');
	is($result->{respelled}, 0,
		'JSON.stringify(JSON.parse(body)) is the body of each');
	is($result->{changed}, 0, 'and its data is what it was');
	is( sql('SELECT successes, failures FROM chatwebhook.webhook_health'),
		"$count|0",
		'the receiver, which serialises anew, accepted every signature');
	$receiver->stop;
};

my $modules = npm_packages('standardwebhooks@1.1.1');

subtest 'awkward events' => sub {
	sql('DELETE FROM chatwebhook.webhook');
	my $receiver = start_receiver(
		program => 'receiver.js',
		args => defined $modules ? [ '--modules' => $modules ] : []);
	my ($values, $lines) = values_file('awkward', 'awkward');
	cmp_ok($lines, '>=', 300, "$lines events");
	create_webhook(
		$node,
		name => 'awkward',
		events => ['awkward'],
		max_retries => 0);
	sql_with_lines($values,
		q{SELECT count(chatwebhook.emit('awkward', E'b "'' \u2028', n::text, value)) FROM line}
	);
	ok(wait_idle($node), 'the worker is done');

	my $result = compare($values, $receiver);
	is($result->{arrived}, $lines, 'each has arrived');
	is($result->{respelled}, 0,
		'JSON.stringify(JSON.parse(body)) is the body of each');
	is($result->{changed}, 0, 'and its data is what it was');
	my $accepted = sub {
		my ($check) = @_;
		return scalar grep { $_->{verified}{$check} } $receiver->log;
	};
	is($accepted->('signature'), $lines,
		'X-Webhook-Signature holds over the value serialised anew');
	is($accepted->('standard'), $lines,
		'webhook-signature holds, by the receiver\'s own check');
  SKIP:
	{
		skip 'the npm package standardwebhooks is not there:'
		  . ' only the receiver\'s own check was made', 1
		  if !defined $modules;
		is($accepted->('package'), $lines,
			'and by that of the package standardwebhooks');
	}
	is( sql('SELECT successes, failures FROM chatwebhook.webhook_health'),
		"$lines|0",
		'so the receiver accepted all');

	# Were it to accept anything, nothing above would say much.
	$receiver->set_secret('awkward', 'whsec_' . 'A' x 43 . '=');
	sql(q{SELECT chatwebhook.emit('awkward', null, null, '{}')});
	ok(wait_idle($node), 'the worker is done');
	my $refused = ($receiver->log)[-1];
	is($refused->{status}, 401, 'under another secret it refuses');
	is_deeply(
		[ grep { $refused->{verified}{$_} } keys %{ $refused->{verified} } ],
		[], 'by every check');
};

subtest 'numbers that a double cannot hold keep their digits' => sub {
	sql('DELETE FROM chatwebhook.webhook');
	my $receiver = start_receiver(program => 'receiver.js');
	my @numbers = (
		'12345678901234567890', '1152921504606846976', '9007199254740993',
		'-9007199254740993', '0.1000000000000000055511151231257827',
		'3.141592653589793238462643383279502884197');
	create_webhook($node, name => 'exact', events => ['exact'], max_retries => 0);
	my $list = join ',', @numbers;
	sql(qq{SELECT chatwebhook.emit('exact', null, null, '{"n": [$list]}')});
	ok(wait_idle($node), 'the worker is done');
	my ($request) = $receiver->log;
	like($request->{body}, qr/"data":\{"n":\[\Q$list\E\]\}\}$/,
		'the body has them as they were');
	ok($request->{verified}{standard},
		'a receiver that verifies the body as it came accepts it');
	ok(!$request->{verified}{signature} && !$request->{same},
		'one that serialises anew does not: it has lost them');
};

$node->stop;
done_testing();
