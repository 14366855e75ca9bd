# Twenty situations that an operator meets, each brought about for real.
#
# Only real trouble can show that its way out is where an operator looks: in each
# situation the page of dashboard(), or a message, names the trouble; the statements that
# end it are read from the page or from the docs, with names, ids and values filled in;
# and with at most three of them, all is as it should be.
#
#  n  situation                                   named by                  statements
#  1  a receiver was down, its webhook is paused  page                      resume
#  2  an outage has left dead letters             page, with the statement  retry_dead
#  3  a webhook's URL is wrong                    page, with one statement  UPDATE, retry
#  4  a receiver has lost the secret              page                      secret, retry_dead
#  5  a receiver answered 410                     page                      UPDATE, retry_dead
#  6  an authority of our own signed a            page                      ALTER SYSTEM, reload, resume
#     receiver's certificate
#  7  an address that is not public is refused    page                      ALTER SYSTEM, reload, retry_dead
#  8  a credential is not set                     page                      set_credential
#  9  a rate limit makes a backlog                page                      UPDATE
# 10  an ordered conversation is stuck            page                      cancel
# 11  a filter matches nothing                    docs' query               UPDATE, backfill
# 12  an event is too large                       page                      watch, backfill
# 13  a watched column was renamed                page, check_watches       watch, check_watches, backfill
# 14  sending is switched off                     page, with the statements ALTER SYSTEM, reload
# 15  the library is not loaded                   page, with the line       (postgresql.conf), restart
# 16  a database was restored or copied           page, with the statement  adopt
# 17  chatwebhook.databases excludes a database   page                      ALTER SYSTEM, reload
# 18  the key file is gone                        page                      ALTER SYSTEM, reload
# 19  a role has no rights                        error                     grant_app
# 20  an outbox waits for a slot that is gone     page                      forget_slot

use strict;
use warnings;

use FindBin;
use lib "$FindBin::Bin/../lib";

use Chatwebhook;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;
use Time::HiRes qw(sleep time);

my $root = "$FindBin::Bin/../..";
my $places = PostgreSQL::Test::Utils::tempdir('situations');
my $key_file = "$places/key";
PostgreSQL::Test::Utils::append_to_file($key_file, 'a1' x 32 . "\n");
chmod 0600, $key_file or die "could not chmod \"$key_file\": $!";

my $receiver = start_receiver();
my $outbox = new_node('outbox', -init => [ allows_streaming => 'logical' ],
	'chatwebhook.outbox' => 'on', 'chatwebhook.outbox_keep' => '0', 'chatwebhook.poll_interval' => '100ms');
# three failures in a row pause a webhook, a database is excluded, secrets are encrypted
my $node = new_node('main',
	'wal_retrieve_retry_interval' => '100ms',
	'chatwebhook.breaker_threshold' => 3,
	'chatwebhook.databases' => '!shop',
	'chatwebhook.secret_key_file' => $key_file);
$node->safe_psql('postgres', q{
	CREATE TABLE lead (id integer GENERATED ALWAYS AS IDENTITY PRIMARY KEY, email text NOT NULL, summary text NOT NULL);
	SELECT chatwebhook.watch('lead', 'lead.captured', '{"email": "email", "source": "@widget", "conversationSummary": "summary"}')});

# Where the situation is: a server, a database in it, and who looks.
my ($server, $dbname, @user);
# The statements that were taken so far.
my $taken;

sub query
{
	return $server->safe_psql($dbname, $_[0], @user);
}

sub until_true
{
	my ($query) = @_;
	local $Test::Builder::Level = $Test::Builder::Level + 1;
	return ok($server->poll_query_until($dbname, $query), "true at last: $query");
}

# HTML as its reader sees it.
sub as_text
{
	my ($html) = @_;
	my %named = (lt => '<', gt => '>', amp => '&', quot => '"');
	$html =~ s{<style.*?</style>}{}s;
	$html =~ s/<[^>]*>/ /g;
	$html =~ s/&(?:#(\d+)|(\w+));/defined $1 ? chr $1 : $named{$2}/ge;
	return $html =~ s/\s+(?=,)//gr =~ s/\s+/ /gr;
}

# The page says something: wait until it does, as a browser that refreshes it.
sub page_says
{
	my ($pattern) = @_;
	local $Test::Builder::Level = $Test::Builder::Level + 1;
	my $deadline = time + $PostgreSQL::Test::Utils::timeout_default;
	my $text;

	do
	{
		$text = as_text(query('SELECT chatwebhook.dashboard()'));
		return pass("the page says $pattern") if $text =~ $pattern;
		sleep 0.05;
	} while (time < $deadline);
	fail("the page says $pattern");
	diag($text);
	return;
}

# The code that the page offers and that a pattern matches.
sub from_page
{
	my ($pattern) = @_;
	my @code = query('SELECT chatwebhook.dashboard()') =~ m{<code[^>]*>(.*?)</code>}gs;
	my ($code) = grep { $_ =~ $pattern } map { as_text($_) } @code;

	local $Test::Builder::Level = $Test::Builder::Level + 1;
	ok(defined $code, "the page offers $pattern") or die "nothing to run\n";
	return $code;
}

# What a page of the docs says: the text that a pattern matches, or its group.  In it,
# values of the docs become those of the situation.
sub from_docs
{
	my ($file, $pattern, @values) = @_;
	my ($text) = slurp_file("$root/$file") =~ $pattern;

	local $Test::Builder::Level = $Test::Builder::Level + 1;
	ok(defined $text, "$file says $pattern") or die "nothing to run\n";
	while (my ($theirs, $ours) = splice @values, 0, 2)
	{
		$text =~ s/\Q$theirs\E/$ours/ or die "\"$theirs\" is not in: $text\n";
	}
	return $text;
}

# A call of a function whose arguments the docs or the page name but do not give.
sub call
{
	my ($signature, @arguments) = @_;
	my ($name) = $signature =~ /^(?:chatwebhook\.)?(\w+)\(/ or die "no function: $signature\n";
	return "SELECT chatwebhook.$name(" . join(', ', @arguments) . ')';
}

# A row of the table in the operators' page about what an error begins with.
sub way_out
{
	my ($error, $pattern, @values) = @_;
	local $Test::Builder::Level = $Test::Builder::Level + 1;
	my $row = from_docs('docs/operations.md', qr/^(\| [^|\n]*`\Q$error\E`[^\n]*)$/m);
	my ($statement) = $row =~ $pattern;

	ok(defined $statement, "and there $pattern") or die "nothing to run\n";
	while (my ($theirs, $ours) = splice @values, 0, 2)
	{
		$statement =~ s/\Q$theirs\E/$ours/ or die "\"$theirs\" is not in: $statement\n";
	}
	return $statement;
}

# Follow the way out: run the statements of one text.
sub take
{
	my ($text) = @_;
	my $result;
	foreach my $statement (grep { /\S/ } split /;\s*(?:\n|$)|;\s+(?=SELECT )/, $text)
	{
		note($statement);
		$taken++;
		$result = query($statement);
	}
	return $result;
}

sub reload
{
	return take(from_docs('docs/operations.md', qr/^(SELECT pg_reload_conf\(\);)$/m));
}

sub retry_dead
{
	my ($id) = @_;
	return take(call(from_docs('docs/operations.md', qr/^\| `[^|]*(retry_dead\(webhook_id, )/m), "'$id'"));
}

# A webhook for leads of the situation, which retries once in an hour.
sub webhook
{
	my ($name, %columns) = @_;
	return create_webhook($server,
		name => $name, dbname => $dbname, events => ['lead.*'],
		backoff => '1 hour', max_backoff => '1 hour',
		receiver => $receiver,
		%columns);
}

sub emit
{
	my ($n, $conversation) = @_;
	return query(qq{SELECT count(chatwebhook.emit('lead.captured', 'shop', coalesce($conversation, 'c' || n),
		'{"email": "ann\@example.com", "source": "chat", "conversationSummary": ""}')) FROM generate_series(1, $n) AS n});
}

sub all_delivered
{
	my ($name, $n) = @_;
	local $Test::Builder::Level = $Test::Builder::Level + 1;
	return until_true(qq{SELECT count(*) = $n AND bool_and(status = 'delivered')
		FROM chatwebhook.delivery WHERE webhook_name = '$name'});
}

# Everything as it was before.
sub tidy_up
{
	my (@settings) = @_;
	query("ALTER SYSTEM RESET $_") foreach @settings;
	query('SELECT pg_reload_conf()') if @settings;
	query('DELETE FROM chatwebhook.webhook');
	query('TRUNCATE lead, chatwebhook.dead, chatwebhook.history');
	return;
}

sub situation
{
	my ($name, $what, %options) = @_;

	subtest $name => sub {
		($server, $dbname, @user) = ($options{server} // $node, $options{dbname} // 'postgres');
		$taken = 0;
		$what->();
		cmp_ok($taken, '>=', 1, 'there was something to do');
		cmp_ok($taken, '<=', 3, 'in at most three statements');
		page_says(qr/^(?!.*(?:Nothing is being sent|Events are being lost|delivers? nothing|The outbox waits))/s);
		tidy_up(@{ $options{settings} // [] }) if $server == $node && $dbname eq 'postgres';
	};
	return;
}

situation 'a receiver was down' => sub {
	my ($id) = webhook('erp', path => '/down-until-told');
	emit(3, 'NULL');
	page_says(qr/erp \S+ Tried next in .* 3 failures in a row, .*: HTTP status 503 paused /s);
	$receiver->set(up => ['erp']);

	take(call(from_docs('docs/operations.md', qr/^\| `paused` \|.*`(resume\(webhook_id\))`/m), "'$id'"));
	all_delivered('erp', 3);
};

situation 'an outage has left dead letters' => sub {
	webhook('erp', path => '/down-until-told', max_retries => 0);
	webhook('crm', path => '/down-until-told', max_retries => 0);
	$receiver->set(down => [ 'erp', 'crm' ]);
	emit(2, 'NULL');
	page_says(qr/Dead letters by reason .*HTTP status 503 crm, erp 4 /s);
	$receiver->set(up => [ 'erp', 'crm' ]);

	take('SELECT ' . from_page(qr/retry_dead/));
	all_delivered($_, 2) foreach qw(erp crm);
};

situation 'a URL is wrong' => sub {
	webhook('erp', path => '/status/404');
	emit(1, 'NULL');
	page_says(qr/Recent failures erp .*given up after 1 attempt 404/s);

	take(way_out('HTTP status 404', qr/`(UPDATE [^`]*)`/, 'https://erp.example.com/hook' => $receiver->url('/ok/-/erp')));
	take(from_page(qr/chatwebhook\.retry\(/));
	all_delivered('erp', 1);
};

situation 'a receiver has lost the secret' => sub {
	my ($id) = webhook('erp', path => '/signed', max_retries => 0);
	$receiver->set_secret('erp', 'whsec_' . 'A' x 44);
	emit(2, 'NULL');
	page_says(qr/Dead letters by reason .*HTTP status 401 erp 2 /s);

	$receiver->set_secret('erp', take(way_out('HTTP status 401', qr/`(SELECT chatwebhook\.secret[^`]*)`/)));
	retry_dead($id);
	all_delivered('erp', 2);
};

situation 'a receiver answered 410' => sub {
	my ($id) = webhook('erp', path => '/scripted', max_retries => 0);
	$receiver->set(replies => { erp => [ { status => 410 } ] });
	emit(5, 'NULL');
	page_says(qr/erp \S+ Disabled: the receiver answered 410 Gone /s);
	$receiver->set(replies => { erp => [ { status => 200 } ] });

	take(from_docs('docs/operations.md', qr/^(UPDATE chatwebhook\.webhook SET enabled = true WHERE name = 'erp';)$/m));
	retry_dead($id);
	all_delivered('erp', 5);
};

situation 'an authority of our own signed a certificate' => sub {
	my $secure = start_receiver(tls => 1);
	my ($id) = webhook('erp', receiver => $secure);
	emit(1, 'NULL');
	page_says(qr/erp .*could not verify the server's certificate: self-signed certificate/s);

	take(way_out(q{could not verify the server's certificate}, qr/`(ALTER SYSTEM [^`]*)`/, '/etc/ssl/own.pem' => $secure->ca_file));
	reload();
	until_true(q{SELECT setting <> '' FROM pg_settings WHERE name = 'chatwebhook.ca_file'});
	take(call('resume(webhook_id)', "'$id'"));
	all_delivered('erp', 1);
	$secure->stop;
}, settings => ['chatwebhook.ca_file'];

situation 'an address that is not public is refused' => sub {
	my ($id) = webhook('erp');
	query(q{ALTER SYSTEM SET chatwebhook.allowed_networks = ''});
	query('SELECT pg_reload_conf()');
	until_true(q{SELECT setting = '' FROM pg_settings WHERE name = 'chatwebhook.allowed_networks'});
	emit(1, 'NULL');
	page_says(qr/Recent failures erp .*given up after 1 attempt no reply the host is a loopback address/s);

	take(way_out('the host is a private address', qr/`(ALTER SYSTEM [^`]*)`/, '10.1.0.0/16' => '127.0.0.0/8'));
	reload();
	until_true(q{SELECT setting <> '' FROM pg_settings WHERE name = 'chatwebhook.allowed_networks'});
	retry_dead($id);
	all_delivered('erp', 1);
}, settings => ['chatwebhook.allowed_networks'];

situation 'a credential is not set' => sub {
	webhook('erp', headers => { Authorization => 'Bearer {{token}}' });
	emit(1, 'NULL');
	page_says(qr/erp .*Nothing can be sent: the credential "token" is not set/s);

	take(way_out('the credential "..." is not set', qr/`(SELECT [^`]*)`/));
	all_delivered('erp', 1);
	is((map { $_->{headers}{authorization} } $receiver->log('erp'))[-1], 'Bearer its value', 'with the credential');
};

situation 'a rate limit makes a backlog' => sub {
	webhook('erp', rate_limit => 0.001);
	emit(4, 'NULL');
	page_says(qr/Backlog .*Waiting for .*erp [1-9]/s);

	my $column = from_docs('docs/operations.md', qr/one of these holds it up: .*?`(rate_limit)`/s);
	take("UPDATE chatwebhook.webhook SET $column = NULL WHERE name = 'erp'");
	all_delivered('erp', 4);
};

situation 'an ordered conversation is stuck' => sub {
	webhook('erp', path => '/fail/1/then/ok', ordered => 'true');
	emit(3, q{'c-18'});
	page_says(qr/Recent failures erp .*to be retried in .*503 .*delivery \d+/s);
	my ($stuck) = as_text(query('SELECT chatwebhook.dashboard()')) =~ /delivery (\d+)/;

	take(call(from_docs('docs/operations.md', qr/`ordered` and retries an earlier\n.*?`(cancel\(delivery_id\))`/s), $stuck));
	until_true(q{SELECT array_agg(status ORDER BY id) = '{canceled,delivered,delivered}' FROM chatwebhook.delivery});
};

# The statement that emits the leads that have none, from the docs.
sub backfill
{
	my ($mapping) = @_;
	return from_docs('docs/your-schema.md', qr/^(SELECT chatwebhook\.backfill\(.*?);/ms,
		q('{"email": "email", …}') => $mapping,
		q('NEW.created_at > now() - interval ''30 days''') => q('NEW.id > 0'),
		', dry_run => true' => '',
		q('crm') => q('erp'));
}

situation 'a filter matches nothing' => sub {
	webhook('erp', filter => '$.data.mail == "ann@example.com"');
	query(q{INSERT INTO lead (email, summary) VALUES ('ann@example.com', '')});
	page_says(qr/All webhooks: 1 idle .*no attempts yet/s);
	my $who = from_docs('docs/operations.md', qr/^### Who gets lead\.captured\?\n```sql\n(.*?);\n```/ms);
	is(query($who), 'erp|t||{lead.*}|($."data"."mail" == "ann@example.com")', 'the query of the docs shows the filter');

	take(q{UPDATE chatwebhook.webhook SET filter = '$.data.email == "ann@example.com"' WHERE name = 'erp'});
	take(backfill(q('{"email": "email", "source": "@widget", "conversationSummary": "summary"}')));
	all_delivered('erp', 1);
};

# The statement that changes a watch, and the one that checks all, from the docs.
sub migrate
{
	my ($mapping) = @_;
	return from_docs('docs/your-schema.md', qr/^(SELECT chatwebhook\.watch\('lead', 'lead\.captured', '\{"email": "email", …\}', replace => true\);)/m,
		q('{"email": "email", …}') => $mapping);
}

situation 'an event is too large' => sub {
	webhook('erp');
	query(q{INSERT INTO lead (email, summary) VALUES ('ann@example.com', repeat('x', 2000000))});
	page_says(qr/Events are being lost .*Mend the watch; chatwebhook\.backfill\(\) /s);
	page_says(qr/the data of event "lead\.captured" is too large/);

	my $mapping = q('{"email": "email", "source": "@widget", "conversationSummary": "=left(NEW.summary, 1000)"}');
	take(migrate($mapping));
	take(backfill($mapping));
	all_delivered('erp', 1);
};

situation 'a watched column was renamed' => sub {
	my $before = q('{"email": "email", "source": "@widget", "conversationSummary": "summary"}');
	my $after = q('{"email": "mail", "source": "@widget", "conversationSummary": "summary"}');
	webhook('erp');
	query("SELECT chatwebhook.watch('lead', 'lead.captured', $before, replace => true)");
	query('ALTER TABLE lead RENAME email TO mail');
	query(q{INSERT INTO lead (mail, summary) VALUES ('ann@example.com', '')});
	page_says(qr/Events are being lost .*email/s);
	my $check = from_docs('docs/your-schema.md', qr/^(SELECT chatwebhook\.check_watches\(\);)/m);
	like(($node->psql('postgres', $check))[2], qr/trigger "chatwebhook_lead\.captured_insert" on table "public\.lead": column "email" of relation "lead" does not exist/, 'check_watches() says so');

	take(migrate($after));
	take($check);
	take(backfill($after));
	all_delivered('erp', 1);
};

situation 'sending is switched off' => sub {
	webhook('erp');
	query('ALTER SYSTEM SET chatwebhook.enabled = off');
	query('SELECT pg_reload_conf()');
	page_says(qr/Nothing is being sent .*Sending is switched off/s);
	emit(2, 'NULL');

	take(from_page(qr/ALTER SYSTEM/));
	all_delivered('erp', 2);
}, settings => ['chatwebhook.enabled'];

situation 'the library is not loaded' => sub {
	webhook('erp');
	end_sessions();
	$node->append_conf('postgresql.conf', q{shared_preload_libraries = ''});
	$node->restart;
	emit(2, 'NULL');
	page_says(qr/Nothing is being sent .*The library is not loaded/s);

	$node->append_conf('postgresql.conf', from_page(qr/^shared_preload_libraries = /));
	$node->restart;
	$taken = 2;
	all_delivered('erp', 2);
};

# A database that chatwebhook.databases excludes, with two events that wait in it.
$node->safe_psql('postgres', 'CREATE DATABASE shop');
$node->safe_psql('shop', 'CREATE EXTENSION chatwebhook');
($server, $dbname) = ($node, 'shop');
webhook('erp');
emit(2, 'NULL');

situation 'a database was copied' => sub {
	$node->safe_psql('postgres', 'CREATE DATABASE copy TEMPLATE shop');
	page_says(qr/Nothing is being sent .*This database is a copy/s);

	take(from_page(qr/adopt\(\)/));
	all_delivered('erp', 2);
}, dbname => 'copy';

situation 'chatwebhook.databases excludes a database' => sub {
	page_says(qr/Nothing is being sent .*No worker is running in this database .*chatwebhook\.databases does not list this database/s);

	take('ALTER SYSTEM SET ' . from_page(qr/^chatwebhook\.databases$/) . q{ = ''});
	reload();
	all_delivered('erp', 2);
}, dbname => 'shop';

situation 'the key file is gone' => sub {
	webhook('erp');
	rename $key_file, "$key_file.kept" or die "could not rename \"$key_file\": $!";
	query('SELECT pg_reload_conf()');
	page_says(qr/The key file of chatwebhook\.secret_key_file cannot be used/);
	emit(2, 'NULL');
	page_says(qr/erp .*Nothing can be sent: cannot open the secret/s);

	take(way_out('cannot open the secret', qr/`(ALTER SYSTEM [^`]*)`/, '/etc/postgresql/chatwebhook.key' => "$key_file.kept"));
	reload();
	all_delivered('erp', 2);
};

situation 'a role has no rights' => sub {
	query('CREATE ROLE my_app LOGIN');
	my $as_app = sub {
		return join '', ($node->psql('postgres', $_[0], extra_params => [ '-U', 'my_app' ]))[ 1, 2 ];
	};
	like($as_app->('SELECT chatwebhook.dashboard()'), qr/permission denied for schema chatwebhook/, 'it is told so');

	take(from_docs('SECURITY.md', qr/^(SELECT chatwebhook\.grant_app\('shop_app'\);)$/m, shop_app => 'my_app'));
	like(as_text($as_app->(q{SET chatwebhook.chatbot = 'acme'; SELECT chatwebhook.dashboard()})), qr/No webhooks yet .*chatbot acme/s, 'it has its page');
	like($as_app->(q{SET chatwebhook.chatbot = 'acme'; SELECT secret FROM chatwebhook.create_webhook('crm', 'https://crm.example.com/hook')}), qr/^whsec_/, 'and may create a webhook');
};

situation 'an outbox waits for a slot that is gone' => sub {
	# a delivery node that is there, and the slot of one that was
	my $subscribe = query('SELECT chatwebhook.publish_outbox()');
	my $host = $outbox->host;
	$subscribe =~ s/host=''localhost''/host=''$host''/ or die "no host in $subscribe\n";
	($server, $dbname) = ($node, 'postgres');
	webhook('erp');
	query($subscribe);
	$server = $outbox;
	until_true(q{SELECT state = 'confirming' AND count(*) OVER () = 1 FROM chatwebhook.outbox_status});
	query(q{SELECT pg_create_logical_replication_slot('former_node', 'pgoutput')});
	until_true(q{SELECT count(*) = 1 FROM chatwebhook.outbox_slot WHERE slot_name = 'former_node' AND present});
	query(q{SELECT pg_drop_replication_slot('former_node')});
	emit(2, 'NULL');
	page_says(qr/The outbox waits for a delivery node .*former_node missing/s);
	$server = $node;
	all_delivered('erp', 2);
	$server = $outbox;
	is(query('SELECT count(*) FROM chatwebhook.event'), 2, 'the delivered events stay in the outbox');

	take(call(from_docs('docs/replication.md', qr/^\| `missing` \|.*`(forget_slot\(\))`/m), q('former_node')));
	until_true('SELECT count(*) = 0 FROM chatwebhook.event');
}, server => $outbox;
$node->safe_psql('postgres', 'DROP SUBSCRIPTION chatwebhook_postgres');

$_->stop('fast') foreach $node, $outbox;
done_testing();
