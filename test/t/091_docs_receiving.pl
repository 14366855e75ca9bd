# The receivers' page, docs/receiving.md.
#
# Only what the worker really sends can show that the page's code accepts it, and
# refuses a request that was changed, is old, or is signed with another secret:
# each snippet is run in its own language.  Python and SQL always are; Node, Go and
# PHP where they are on the machine, and otherwise skipped by name.

use strict;
use warnings;

use FindBin;
use lib "$FindBin::Bin/../lib";

use Chatwebhook;
use HTTP::Tiny;
use IPC::Run;
use JSON::PP ();
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;

my $page = slurp_file("$FindBin::Bin/../../docs/receiving.md");
my $directory = PostgreSQL::Test::Utils::tempdir('snippets');
my $json = JSON::PP->new->utf8->canonical;
my $receiver = start_receiver();
my $node = new_node('main');

my %snippets;
while ($page =~ /^```(\w+)\n(.*?)^```$/msg)
{
	my ($language, $text) = ($1, $2);
	my ($name) = $text =~ /(?:function|def|func|class|FUNCTION) (\w+)/;
	$snippets{$language}{ $name // 'statement' } = $text;
}
is_deeply(
	{ map { $_ => [ sort keys %{ $snippets{$_} } ] } keys %snippets },
	{
		js => [ 'verify', 'verifyBody', 'verifyPublic' ],
		python => [ 'Receiver', 'verify', 'verify_body' ],
		go => ['verify'],
		php => ['verify'],
		sh => ['statement'],
		sql => [ 'receive', 'statement' ],
		ts => ['handle'],
	},
	'these are the snippets');

# A text as a literal.
sub quoted
{
	my ($text) = @_;
	return "'" . ($text =~ s/'/''/gr) . "'";
}

sub emit
{
	my ($email) = @_;
	return sql(qq{SELECT chatwebhook.emit('lead.captured', 'shop', 'c-1',
		'{"email": "$email", "source": "Zo\x{c3}\x{ab}", "conversationSummary": "a < b"}')});
}

# The last request of a label.
sub last_request
{
	my ($label) = @_;
	my ($request) = reverse $receiver->log($label);
	my $body = $request->{body};
	utf8::encode($body);
	return { headers => $request->{headers}, body => $body };
}

#
# How a snippet is asked: a program that reads a case from its standard input,
# an object of headers, body and secret, and prints true or false.
#
my %programs = (
	python => [
		'verify.py',
		qq{
import json, sys
case = json.load(sys.stdin)
print(json.dumps(verify(case["headers"], case["body"].encode(), case["secret"])))
},
		[ $ENV{PYTHON} // 'python3' ]
	],
	js => [
		'verify.js',
		qq{
const one = JSON.parse(require('fs').readFileSync(0, 'utf8'))
console.log(verify(one.headers, one.body, one.secret))
},
		[ $ENV{NODE} // 'node' ]
	],
	php => [
		'verify.php',
		q{
$case = json_decode(file_get_contents('php://stdin'), true);
echo json_encode(verify($case['headers'], $case['body'], $case['secret'])), "\n";
},
		['php']
	],
	go => [ 'verify.go', '', ['go'] ]);

append_to_file("$directory/main.go", <<'END');
package main

import (
	"encoding/json"
	"fmt"
	"net/http"
	"os"
)

func main() {
	var one struct {
		Headers map[string]string
		Body    string
		Secret  string
	}
	if err := json.NewDecoder(os.Stdin).Decode(&one); err != nil {
		panic(err)
	}
	header := http.Header{}
	for name, value := range one.Headers {
		header.Set(name, value)
	}
	fmt.Println(verify(header, []byte(one.Body), one.Secret))
}
END

sub on_this_machine
{
	my ($program) = @_;
	return $program =~ m{/} ? -x $program : grep { -x "$_/$program" } split /:/, $ENV{PATH};
}

# What a snippet says to a case.
sub answer
{
	my ($language, $request, $secret) = @_;
	my ($output, $errors) = ('', '');

	if ($language eq 'sql')
	{
		return sql(sprintf 'SELECT receive(%s, %s, %s)',
			quoted($json->encode($request->{headers})),
			quoted($request->{body}), quoted($secret)) eq 't' ? 'true' : 'false';
	}
	my ($file, undef, $command) = @{ $programs{$language} };
	my $body = $request->{body};
	utf8::decode($body);
	my $case = $json->encode(
		{ headers => $request->{headers}, body => $body, secret => $secret });
	IPC::Run::run($language eq 'go' ? ["$directory/verify"] : [ @$command, "$directory/$file" ],
		'<' => \$case, '>' => \$output, '2>' => \$errors);
	diag("$language: $errors") if $errors ne '';
	return $output =~ s/\s+\z//r;
}

#
# The cases: what the worker has sent, and what somebody could make of it
#
my ($id, $secret) = create_webhook($node, name => 'crm', events => ['lead.captured']);
emit('ann@example.com');
ok(wait_idle($node) && $receiver->wait_for(1, 'crm'), 'an event has arrived');
my $request = last_request('crm');

sub with_headers
{
	my ($from, %headers) = @_;
	my %all = (%{ $from->{headers} }, %headers);
	delete @all{ grep { !defined $all{$_} } keys %all };
	return { headers => \%all, body => $from->{body} };
}

# The same request as the sender would have signed it at another time.
sub signed_at
{
	my ($seconds) = @_;
	my $then = time + $seconds;
	return with_headers(
		$request,
		'webhook-timestamp' => "$then",
		'webhook-signature' => sql(sprintf 'SELECT chatwebhook.sign(%s, to_timestamp(%d), %s, %s)',
			quoted($request->{headers}{'webhook-id'}),
			$then, quoted($request->{body}), quoted($secret)));
}

my $changed = with_headers($request);
$changed->{body} =~ s/ann\@/bob@/ or die 'the body has no address';
my $new_secret = sql(qq{SELECT chatwebhook.rotate_secret('$id', overlap => '1 day')});
emit('cyd@example.com');
ok(wait_idle($node) && $receiver->wait_for(2, 'crm'), 'another, while two secrets overlap');
my $overlap = last_request('crm');

my ($batch_id, $batch_secret) = create_webhook(
	$node,
	name => 'batch',
	events => ['webhook.test'],
	batch_size => 10);
my ($both_id, $both_secret) = create_webhook(
	$node,
	name => 'both',
	events => ['webhook.test'],
	signing => 'v1,v1a');
sql(q{SELECT chatwebhook.emit('webhook.test', null, null, '{}')});
ok(wait_idle($node) && $receiver->wait_for(1, 'batch'), 'a batch');
my $both = last_request('both');
like($both->{headers}{'webhook-signature'}, qr/^v1,\S+ v1a,\S+$/, 'and one request with two signatures');
my $batch = last_request('batch');
is(ref $json->decode($batch->{body}), 'ARRAY', 'of one event is an array too');
is($batch->{headers}{'x-webhook-event'}, 'batch', 'and is called a batch');

my @cases = (
	[ 'what was sent', $request, $secret, 'true' ],
	[ 'two minutes old', signed_at(-120), $secret, 'true' ],
	[ 'while secrets overlap, by the old one', $overlap, $secret, 'true' ],
	[ 'while secrets overlap, by the new one', $overlap, $new_secret, 'true' ],
	[ 'a batch', $batch, $batch_secret, 'true' ],
	[ 'beside a v1a signature', $both, $both_secret, 'true' ],
	[ 'a changed body', $changed, $secret, 'false' ],
	[ 'ten minutes old', signed_at(-600), $secret, 'false' ],
	[ 'ten minutes ahead', signed_at(600), $secret, 'false' ],
	[ 'of now, with the signature of then',
		with_headers(signed_at(-600), 'webhook-timestamp' => time . ''), $secret, 'false' ],
	[ 'another id', with_headers($request, 'webhook-id' => $id), $secret, 'false' ],
	[ 'another secret', $request, $new_secret, 'false' ],
	[ 'no signature', with_headers($request, 'webhook-signature' => undef), $secret, 'false' ],
	[ 'an empty signature', with_headers($request, 'webhook-signature' => ''), $secret, 'false' ],
	[ 'half a signature',
		with_headers($request,
			'webhook-signature' => substr($request->{headers}{'webhook-signature'}, 0, 20)),
		$secret, 'false' ],
	[ 'no time', with_headers($request, 'webhook-timestamp' => undef), $secret, 'false' ],
	[ 'a time that is none', with_headers($request, 'webhook-timestamp' => 'now'), $secret, 'false' ]);

foreach my $language (qw(sql python js go php))
{
	subtest $language => sub {
		if ($language eq 'sql')
		{
			script($snippets{sql}{receive});
		}
		else
		{
			my ($file, $harness, $command) = @{ $programs{$language} };
			plan skip_all => "$command->[0] is not on this machine"
			  if !on_this_machine($command->[0]);
			append_to_file("$directory/$file", $snippets{$language}{verify} . $harness);
			if ($language eq 'go')
			{
				local $ENV{GOCACHE} = $ENV{GOCACHE} // "$directory/cache";
				local $ENV{GO111MODULE} = 'off';
				system_or_bail('go', 'build', '-o' => "$directory/verify",
					"$directory/main.go", "$directory/$file");
			}
		}
		foreach my $case (@cases)
		{
			my ($title, $one, $with, $expected) = @$case;
			is(answer($language, $one, $with), $expected, $title);
		}
	};
}

is(sql('SELECT count(*) FROM inbox'), 3, 'in SQL, each event is kept once');
is( sql(q{SELECT event #>> '{data,email}' FROM inbox WHERE type = 'lead.captured' ORDER BY id LIMIT 1}),
	'ann@example.com', 'as it was');

#
# The other signature, and the asymmetric one
#
sub run_snippet
{
	my ($command, $file, $program, @arguments) = @_;
	my ($output, $errors) = ('', '');

	append_to_file("$directory/$file", $program);
	IPC::Run::run([ $command, "$directory/$file", @arguments ],
		'>' => \$output, '2>' => \$errors);
	diag($errors) if $errors ne '';
	return $output =~ s/\s+\z//r;
}

my $python = $ENV{PYTHON} // 'python3';
my $nodejs = $ENV{NODE} // 'node';
my $signature = $request->{headers}{'x-webhook-signature'};
is( run_snippet($python, 'body.py', $snippets{python}{verify_body} . <<'END',
import sys
body, changed, signature, secret = sys.argv[1:]
print(verify_body(body.encode(), signature, secret), verify_body(changed.encode(), signature, secret))
END
		$request->{body}, $changed->{body}, $signature, $secret),
	'True False', 'the other signature, in Python');
is($overlap->{headers}{'x-webhook-signature'},
	sql(sprintf 'SELECT chatwebhook.sign(%s, chatwebhook.secret(%s))', quoted($overlap->{body}), quoted($id)),
	'while secrets overlap, it is the new one\'s');

SKIP:
{
	skip 'node is not on this machine', 2 if !on_this_machine($nodejs);
	is( run_snippet($nodejs, 'body.js', $snippets{js}{verifyBody} . <<'END',
const [body, changed, signature, secret] = process.argv.slice(2)
const again = JSON.stringify(JSON.parse(body))
console.log(verifyBody(body, signature, secret), verifyBody(again, signature, secret),
            verifyBody(changed, signature, secret), verifyBody(body, 'sha256=', secret))
END
			$request->{body}, $changed->{body}, $signature, $secret),
		'true true false false', 'the other signature, in Node');

	my ($public_id) = create_webhook(
		$node,
		name => 'public',
		events => ['webhook.test'],
		signing => 'v1a');
	my $key = sql("SELECT chatwebhook.public_key('$public_id')");
	sql(q{SELECT chatwebhook.emit('webhook.test', null, null, '{}')});
	wait_idle($node) && $receiver->wait_for(1, 'public');
	my $public = last_request('public');
	is( run_snippet($nodejs, 'public.js', $snippets{js}{verifyPublic} . <<'END',
const [headers, body, key] = process.argv.slice(2)
const one = JSON.parse(headers)
console.log(verifyPublic(one, body, key), verifyPublic(one, body + ' ', key),
            verifyPublic({...one, 'webhook-timestamp': '1700000000'}, body, key),
            verifyPublic({...one, 'webhook-signature': 'v1a,AAAA'}, body, key))
END
			$json->encode($public->{headers}), $public->{body}, $key),
		'true false false false', 'the asymmetric one, in Node');
}

#
# The whole receiver, and the worker before it
#
{
	my ($inbox_id, $inbox_secret) = create_webhook(
		$node,
		name => 'inbox',
		events => ['lead.captured'],
		url => 'http://127.0.0.1:8099/');
	local $ENV{PORT} = 0;
	local $ENV{WEBHOOK_SECRET} = $inbox_secret;
	append_to_file("$directory/receiver.py",
		$snippets{python}{verify} . $snippets{python}{Receiver});
	my ($output, $errors) = ('', '');
	my $server = IPC::Run::start(
		[ 'sh', '-c', 'cd "$1" && exec "$2" receiver.py', 'sh', $directory, $python ],
		'<' => \'', '>' => \$output, '2>' => \$errors,
		IPC::Run::timeout($PostgreSQL::Test::Utils::timeout_default * 2));
	$server->pump until $output =~ /listening (\d+)\n/;
	my ($port) = $output =~ /listening (\d+)\n/;
	sql("UPDATE chatwebhook.webhook SET url = 'http://127.0.0.1:$port/' WHERE id = '$inbox_id'");

	emit('dan@example.com');
	ok(wait_idle($node), 'the whole receiver answers');
	is( sql("SELECT count(*) FROM chatwebhook.delivery
			WHERE webhook_id = '$inbox_id' AND status = 'delivered' AND last_status_code = 204"),
		1, 'that it has the event');
	is(sql("SELECT chatwebhook.replay('$inbox_id')"), 1, 'it is sent again');
	ok(wait_idle($node), 'and answered again');
	sql("UPDATE chatwebhook.webhook SET batch_size = 10 WHERE id = '$inbox_id'");
	emit('eve@example.com');
	ok(wait_idle($node), 'so is a batch');
	is( HTTP::Tiny->new->post("http://127.0.0.1:$port/",
			{ content => $request->{body}, headers => { 'webhook-id' => 'x' } })->{status},
		401, 'what we did not sign is refused');
	is( sql("SELECT count(*) FROM chatwebhook.dead_letter"), 0, 'nothing of ours was');
	is( run_snippet($python, 'inbox.py', <<'END', "$directory/inbox.db"),
import json, sqlite3, sys
rows = sqlite3.connect(sys.argv[1]).execute("SELECT event FROM inbox ORDER BY id").fetchall()
print(" ".join(json.loads(row[0])["data"]["email"] for row in rows))
END
		'dan@example.com eve@example.com', 'each event is kept once');
	$server->signal('TERM');
	eval { $server->finish };
}

# The statement that makes a new secret
script($snippets{sql}{statement});
isnt(sql("SELECT chatwebhook.secret('$id')"), $new_secret, 'there is a new secret');

$node->stop('fast');
done_testing();
