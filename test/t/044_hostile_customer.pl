# A hostile customer beside an honest one.
#
# Only here does a role that may write one chatbot's webhooks fill every column
# with whatever comes to mind, row after row: values of extreme size, depth and
# number, every encoding and placeholder, credentials.  After each row comes an
# event of each customer.  What is shown is that the honest customer's events all
# arrive, that the worker neither restarts nor grows, and that each refusal is an
# error for people, not an internal one.
#
# HOSTILE_ROWS sets how many rows (150), HOSTILE_SEED which.  How long the honest
# customer's events took is only reported.

use strict;
use warnings;

use FindBin;
use lib "$FindBin::Bin/../lib";

use Chatwebhook;
use JSON::PP ();
use List::Util qw(max);
use PostgreSQL::Test::Utils;
use Session;
use Test::More;
use Time::HiRes qw(time);

my $rows = $ENV{HOSTILE_ROWS} // 150;
my $seed = $ENV{HOSTILE_SEED} // int(time);
srand $seed;
note("HOSTILE_SEED=$seed");

# An honest worker needs less than this, in bytes of its own memory.
my $limit_kb = 64 * 1024;

my $receiver = start_receiver();
my $closed = start_receiver();
my $nobody = $closed->url('/');
$closed->stop;
my $node = new_node(
	'main',
	'chatwebhook.alert_failures' => 5,
	'chatwebhook.alert_success_rate' => 0.9,
	'chatwebhook.alert_backlog' => '5min',
	'chatwebhook.breaker_threshold' => 10);
script(q{CREATE ROLE app; SELECT chatwebhook.grant_app('app');
	CREATE TABLE rating (bot text, rating integer);
	SELECT chatwebhook.watch('rating', 'feedback.received', '{"chatbotId": "bot", "rating": "rating"}')});
create_webhook($node, name => 'honest', chatbot_id => 'honest', receiver => $receiver);

my $customer = Session->new($node, 'postgres') or die $Session::error;
$customer->query('SET ROLE app');
$customer->query(q{SET chatwebhook.chatbot = 'hostile'});
my $chat = Session->new($node, 'postgres') or die $Session::error;

sub one_of { return $_[ rand @_ ] }

sub text
{
	my @alphabets = (
		[ 'a' .. 'z' ], [ map { chr } 32 .. 126 ], [ map { chr } 1 .. 31 ],
		[ "\x{e9}", "\x{4e2d}", "\x{1f600}", "\x{202e}", "\x{feff}" ],
		[ '{{', '}}', 'token', 'signing_secret', 'client_key', '$hmac_sha256', '{{$hmac_sha256}}', '{{$delivery}}', "\r\n", '%0d%0a' ]);
	my $alphabet = one_of(@alphabets);
	my $size = one_of(0, 1, 10, 63, 255, 256, 1000, 4096, one_of(70_000, 300_000, 1_000_000));
	return join '', map { one_of(@$alphabet) } 1 .. ($size > 5000 ? 1 : $size) if $size <= 5000;
	return one_of(@$alphabet) x $size;
}

sub json_text
{
	my $value = text();
	$value =~ tr/\x00//d;
	return JSON::PP->new->allow_nonref->encode($value);
}

sub json
{
	my ($depth) = @_;
	my $kind = int rand 8;
	return '{}' if $kind == 0;
	return 'null' if $kind == 1;
	return '[' x 3000 . ']' x 3000 if $kind == 2;
	return '{"a":' x 2000 . '1' . '}' x 2000 if $kind == 3;
	return one_of('-0', '1e400', '1e-400', '9' x 5000, '0.1', 'true') if $kind == 4;
	return json_text() if $kind == 5 || $depth > 3;
	return '[' . join(',', map { json($depth + 1) } 1 .. rand 6) . ']' if $kind == 6;
	return '{' . join(',', map { one_of('"channel"', '"mentions"', '"X-A"', '"type"', '"token"', json_text()) . ':' . json($depth + 1) }
		1 .. one_of(1, 3, 60)) . '}';
}

sub object
{
	my (@keys) = @_;
	return '{' . join(',', map { "\"$_\":" . one_of(json_text(), '"{{token}}"', '"{{key}}{{key}}{{key}}"', json(3)) } @keys) . '}';
}

sub path
{
	my $steps = one_of(1, 5, 50, 4000);
	return one_of(
		'$.data.rating > 3',
		'$' . '[0]' x $steps . ' == 1',
		'$' . '.a' x $steps . ' == 1',
		'$' . '.**' x min_of($steps, 30) . ' == 2',
		'exists($.** ? (' x min_of($steps, 14) . '@ == 1' . '))' x min_of($steps, 14),
		'$.data.content like_regex "^((a+)*)*\\\\1\\\\1b$"',
		'$.data.content like_regex "' . '(a{1,255}){1,255}' x min_of($steps, 4) . '"',
		'$.data.content like_regex "a" flag "q"',
		'!(' x min_of($steps, 200) . '$.a == 1' . ')' x min_of($steps, 200),
		'$.a == "' . 'x' x one_of(10, 5000, 1_000_000) . '"',
		'(' . join(' || ', ('$.type == "x"') x $steps) . ')',
		'$.data.rating.double() / 0 == 1',
		'$[*] ? (@.keyvalue().value == 1).datetime() == 1',
		text());
}
sub min_of { return $_[0] < $_[1] ? $_[0] : $_[1] }

my @extremes = qw(-1 0 1 2 99 100 101 1000 2147483647 -2147483648 99999999999999999999);
my @times = ('-1 s', '0', '1 us', '1 ms', '100 ms', '5 min', '1 day', '7 days', '178000000 years', '-178000000 years', '1 mon', text());
my @floats = qw(-1 0 NaN Infinity -Infinity 1e-300 1e300 0.001 100000 2);
my %columns = (
	name => \&text,
	url => sub {
		one_of((map { $receiver->url("$_/-/hostile") } qw(/ok /hang /reset /garbage /status/500 /gone /endless /long-header/200000 /redirect /slow-body/60 /big/1000000)),
			$nobody, 'http://169.254.169.254/', '{{token}}', 'https://{{token}}/x', 'http://hostile.invalid/', 'file:///etc/passwd', text());
	},
	connector => sub { one_of(qw(webhook webhook webhook slack discord hubspot salesforce zendesk pagerduty nothing)) },
	events => sub {
		one_of('{*}', '{webhook.*}', '{webhook.alert,*}', '{message.*,feedback.received}', '{}', '{NULL}', '{""}', '{{a},{b}}',
			'{' . join(',', ('message.*') x 5000) . '}', '{' . 'a.' x 100_000 . '*}');
	},
	filter => \&path,
	enabled => sub { one_of('true', 'true', 'false') },
	headers => sub {
		one_of(json(0), object('X-A', 'X-B'), '{"X-A": "' . '{{key}}' x 500 . '"}', '{' . join(',', map { "\"X-$_\": \"" . '{{key}}' x 400 . '"' } 1 .. 50) . '}',
			'{"X-A": "{{client_key}}"}', '{"Host": "x"}', '{"X-A": "a\\r\\nX-B: c"}');
	},
	settings => sub { one_of(json(0), object(qw(channel username mentions)), '{"a": "' . 'x' x one_of(100, 60_000, 3_000_000) . '"}') },
	auth => sub {
		one_of(json(0), '{"type": "bearer", "token": "{{token}}"}', '{"type": "basic", "username": "u", "password": "{{key}}"}',
			'{"type": "header", "name": "X-K", "value": "{{key}}{{token}}{{client_key}}"}', '{"type": "body", "name": "k", "value": "{{key}}"}',
			'{"type": "oauth2", "token_url": "' . $receiver->url(one_of('/hang', '/big/5000000', '/ok', '/garbage')) . '", "client_id": "x"}');
	},
	max_retries => sub { one_of(@extremes) },
	backoff => sub { one_of(@times) },
	backoff_multiplier => sub { one_of(@floats) },
	max_backoff => sub { one_of(@times) },
	timeout => sub { one_of(@times) },
	rate_limit => sub { one_of(@floats) },
	max_in_flight => sub { one_of(@extremes, 1024) },
	ordered => sub { one_of('true', 'false') },
	batch_size => sub { one_of(@extremes) },
	batch_window => sub { one_of(@times) },
	debounce => sub { one_of(@times) },
	signing => sub { one_of('v1', 'v1a', 'v1,v1a', 'v2', text()) },
	chatbot_id => sub { one_of('hostile', 'hostile', 'honest', text()) });

my $quote = sub {
	my ($value) = @_;
	$value =~ tr/\x00//d;
	$value =~ s/'/''/g;
	$value =~ s/\\/\\\\/g;
	return "E'$value'";
};

# What the hostile customer does next, in one statement.
sub hostile_act
{
	my $what = rand;
	my $name = one_of(qw(token key client_key client_certificate signing_secret signing_key a), 'x' x 100, text());
	my $own = '(SELECT id FROM chatwebhook.webhook ORDER BY random() LIMIT 1)';

	return 'DELETE FROM chatwebhook.webhook WHERE id IN (SELECT id FROM chatwebhook.webhook ORDER BY random() LIMIT 10)' if $what < 0.05;
	return "SELECT chatwebhook.set_credential($own, " . $quote->($name) . ', ' . $quote->(one_of('k' x 60_000, 'a', text(), "x\r\ny: z")) . ')'
	  if $what < 0.25;
	my @names = grep { rand() < one_of(0.1, 0.3) } sort keys %columns;
	if ($what < 0.4)
	{
		@names = ('settings') if !@names;
		return "UPDATE chatwebhook.webhook SET " . join(', ', map { "$_ = " . $quote->($columns{$_}->()) } @names) . " WHERE id = $own";
	}
	my %values = (
		name => 'x', url => $receiver->url(one_of('/ok', '/hang', '/status/500') . '/-/hostile'),
		map { $_ => $columns{$_}->() } @names);
	return 'INSERT INTO chatwebhook.webhook (' . join(', ', sort keys %values) . ') VALUES ('
	  . join(', ', map { $quote->($values{$_}) } sort keys %values) . ')';
}

sub own_memory_kb
{
	my ($pid) = @_;
	return slurp_file("/proc/$pid/status") =~ /^RssAnon:\s+(\d+) kB/m ? $1 : 0;
}

# how long an INSERT takes while the hostile customer does nothing, in ms
my $calm = 50;
my @calm;
foreach my $i (1 .. $calm)
{
	my $started = time;
	$chat->query(q{INSERT INTO rating VALUES ('honest', 1)});
	push @calm, 1000 * (time - $started);
	$receiver->wait_for($i, 'honest');
}
@calm = sort { $a <=> $b } @calm;

my $worker = sql('SELECT pid FROM chatwebhook.worker_status');
my ($accepted, $refused, $most_kb, @took, @inserts) = (0, 0, 0);
my (@internal, @lost);
foreach my $i (1 .. $rows)
{
	my $act = hostile_act();
	my $answer = $customer->query($act);
	if (defined $answer->{error})
	{
		$refused++;
		push @internal, substr($act, 0, 300) . "\n$answer->{error}"
		  if $answer->{sqlstate} =~ /^(?:XX|5[378])/ && $answer->{sqlstate} ne '54000' || $answer->{sqlstate} eq '57P01';
	}
	else
	{
		$accepted++;
	}

	my $started = time;
	$answer = $chat->query(q{INSERT INTO rating VALUES ('hostile', 1)});
	push @lost, $answer->{error} if defined $answer->{error};
	my $between = time;
	$answer = $chat->query(q{INSERT INTO rating VALUES ('honest', 1)});
	push @lost, $answer->{error} if defined $answer->{error};
	my $committed = time;
	push @inserts, 1000 * ($committed - $between);
	push @lost, "event $i" if !$receiver->wait_for($calm + $i, 'honest');
	last if @lost;
	push @took, $committed;
	$most_kb = max($most_kb, own_memory_kb($worker)) if $i % 10 == 0;
}
is("@lost", '', 'every event of the honest customer arrives');
is(join("\n", @internal), '', 'every refusal is an error for people');
cmp_ok($accepted, '>', 0, "some rows are taken ($accepted of $rows)");
cmp_ok($refused, '>', 0, "some are refused ($refused)");
is(sql('SELECT pid FROM chatwebhook.worker_status'), $worker, 'the worker is still the same');
cmp_ok($most_kb, '<', $limit_kb, "and has not grown much: $most_kb kB of its own");

my @arrived = map { $_->{time} } $receiver->log('honest');
splice @arrived, 0, $calm;
my @latency = sort { $a <=> $b } map { 1000 * ($arrived[$_] - $took[$_]) } 0 .. $#took;
@inserts = sort { $a <=> $b } @inserts;
note(sprintf('the honest customer: ms from commit to request, median %.1f, p99 %.1f, most %.1f; INSERT, median %.2f, p99 %.2f; before, median %.2f',
	@latency[ @latency / 2, 0.99 * $#latency, -1 ], @inserts[ @inserts / 2, 0.99 * $#inserts ], $calm[ @calm / 2 ])) if @latency;

# fast shutdown is not held up, and another start finds the same rows
$customer->close;
$chat->close;
end_sessions();
$node->restart;
sql(q{INSERT INTO rating VALUES ('honest', 2)});
ok($receiver->wait_for($calm + $rows + 1, 'honest'), 'after a restart, too');

done_testing();
