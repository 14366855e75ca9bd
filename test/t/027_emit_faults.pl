# Nothing about webhooks stops a chat.
#
# Only faults in watches of every kind, each met by an INSERT in a transaction
# that does other work, can show that the chat's statement succeeds and soon, that
# the other work is kept, and that the failure is counted once a row and alerted.
# With chatwebhook.on_emit_error = error, the same faults raise.

use strict;
use warnings;

use FindBin;
use lib "$FindBin::RealBin/../lib";

use Chatwebhook;
use Session;
use Test::More;
use Time::HiRes qw(time);

my $receiver = start_receiver();
my $node = new_node('main', 'chatwebhook.schema_validator' => 'app.validator');
create_webhook($node, name => 'all', events => '{*}');
create_webhook($node, name => 'alerts', events => '{webhook.alert}');

script(q{
	CREATE SCHEMA app;
	CREATE ROLE app_owner;
	CREATE ROLE chat LOGIN;
	GRANT USAGE ON SCHEMA chatwebhook TO app_owner;
	GRANT EXECUTE ON FUNCTION chatwebhook.watch, chatwebhook.unwatch, chatwebhook.emit(), chatwebhook.emit(text, text, text, jsonb, timestamptz, timestamptz, text) TO app_owner;
	GRANT CREATE, USAGE ON SCHEMA app TO app_owner;
	GRANT USAGE ON SCHEMA app TO chat;
	CREATE TABLE app.other (id int PRIMARY KEY, secret text);
	INSERT INTO app.other SELECT g, 'secret ' || g FROM generate_series(1, 100) AS g;
	CREATE TABLE app.done (n int);
	CREATE TABLE app.locked (n int);
	CREATE SEQUENCE app.numbers;
	GRANT ALL ON app.done, app.numbers TO chat, app_owner;
	GRANT SELECT ON app.other, app.locked TO app_owner;
	CREATE TYPE app.pair AS (a int, b text);
	CREATE FUNCTION app.raises(text) RETURNS text LANGUAGE plpgsql AS
		$$ BEGIN RAISE EXCEPTION 'the value is %', $1; END $$;
	CREATE FUNCTION app.raises_as(text) RETURNS text LANGUAGE plpgsql AS
		$$ BEGIN RAISE EXCEPTION 'the value is %', $1 USING ERRCODE = $1; END $$;
	CREATE FUNCTION app.loops() RETURNS int LANGUAGE plpgsql AS $$ BEGIN LOOP END LOOP; END $$;
	CREATE FUNCTION app.recurses(int) RETURNS int LANGUAGE plpgsql AS $$ BEGIN RETURN app.recurses($1 + 1); END $$;
	CREATE FUNCTION app.writes() RETURNS int LANGUAGE plpgsql AS $$ BEGIN INSERT INTO app.done VALUES (0); RETURN 1; END $$;
	CREATE FUNCTION app.goes() RETURNS text LANGUAGE sql STABLE AS $$ SELECT 'x' $$;
	CREATE FUNCTION app.reads() RETURNS text LANGUAGE plpgsql STABLE AS $$ BEGIN RETURN (SELECT secret FROM app.other WHERE id = 1); END $$;
	CREATE FUNCTION app.ends() RETURNS int LANGUAGE plpgsql AS $$ BEGIN ROLLBACK; RETURN 1; END $$;
	CREATE FUNCTION app.cancels() RETURNS int LANGUAGE plpgsql AS
		$$ BEGIN PERFORM pg_sleep(60); RETURN 1; EXCEPTION WHEN query_canceled THEN RETURN 1; END $$;
});

# The function that holds events to their schemas, with this body.
my $validator = sub {
	return "CREATE OR REPLACE FUNCTION app.validator(schema json, instance jsonb) RETURNS boolean LANGUAGE plpgsql AS \$\$ BEGIN $_[0]; END \$\$";
};
my $valid = $validator->('RETURN true');
script($valid);

# Each fault: what is done to the table "chat" after it was watched, and how it is
# watched. The message of the failure comes last.
my $lead = 'lead.captured';
my $mapping = q{'{"email": "email", "source": "@widget", "conversationSummary": "summary"}'};
my $query = sub { return "query => \$query\$SELECT NEW.email, '\@widget' AS source, $_[0] AS \"conversationSummary\"" . ($_[1] // '') . '$query$' };
my $huge = q{repeat('x', 2000000)};
my @faults = (
	[ 'a required column is null', $mapping, '', { summary => 'NULL' }, qr/lacks the required key "conversationSummary"/ ],
	[ 'a column was renamed', $mapping, 'ALTER TABLE app.chat RENAME email TO mail', {}, qr/column "email" of relation "chat" does not exist/ ],
	[ 'a column was dropped', $mapping, 'ALTER TABLE app.chat DROP summary', { summary => undef }, qr/column "summary" of relation "chat" does not exist/ ],
	[ 'a value of 2 MB', $mapping, '', { summary => $huge }, qr/the data of event "lead.captured" is too large/ ],
	[ 'a value of 2 MB that was compressed by us', $mapping, 'ALTER TABLE app.chat ALTER summary SET STORAGE EXTERNAL', { summary => $huge }, qr/too large/ ],
	[ 'an array of 2 MB', q{'{"email": "email", "source": "@w", "conversationSummary": "parts"}'}, '', { parts => "array_fill('xxxxxxxxxx'::text, ARRAY[200000])" }, qr/too large/ ],
	[ 'json that jsonb cannot hold', q{'{"email": "email", "source": "@w", "conversationSummary": "raw"}'}, '', { raw => q{'"\u0000"'} }, qr/unsupported Unicode escape sequence/ ],
	[ 'a number that jsonb cannot hold', q{'{"email": "email", "source": "@w", "conversationSummary": "raw"}'}, '', { raw => q{'1e1000000'} }, qr/overflow|out of range/ ],
	[ 'a long chatbotId', q{'{"chatbotId": "summary", "email": "email", "source": "@w", "conversationSummary": "email"}'}, '', { summary => q{repeat('x', 20000)} }, qr/chatbot_id of event "lead.captured" is too long/ ],
	[ 'the event type is gone', q{'{}'}, q{DELETE FROM chatwebhook.event_type WHERE name = 'test.gone'}, {}, qr/unknown event type: "test.gone"/, 'test.gone' ],
	[ 'a division by zero', $query->('NEW.id / NEW.zero'), '', {}, qr/division by zero/ ],
	[ 'a division by zero in an expression', q{'{"email": "email", "source": "@w", "conversationSummary": "=NEW.id / NEW.zero"}'}, '', {}, qr/division by zero/ ],
	[ 'a division by zero in a condition', "$mapping, condition => 'NEW.id / NEW.zero > 1'", '', {}, qr/division by zero/ ],
	[ 'a cast that fails', $query->('NEW.email::int'), '', {}, qr/^invalid input syntax for type \.\.\.: "\.\.\."$/ ],
	[ 'a cast of a value with quotes that fails', $query->('NEW.summary::int'), '', { summary => q{'a "secret" b'} }, qr/^invalid input syntax for type \.\.\.: "\.\.\."$/ ],
	[ 'a name that does not exist in a value', $query->('NEW.email::regrole::text'), '', { email => q{'secret'} }, qr/^role "\.\.\." does not exist$/ ],
	[ 'an expression that is null', q{'{"email": "email", "source": "@w", "conversationSummary": "=nullif(NEW.id, NEW.id)"}'}, '', {}, qr/lacks the required key "conversationSummary"/ ],
	[ 'a function that raises', $query->('app.raises(NEW.email)'), '', {}, qr/^a function raised an exception$/ ],
	[ 'a function that raises with a code', $query->('app.raises_as(NEW.summary)'), '', { summary => q{'check_violation'} }, qr/^a function raised an exception$/ ],
	[ 'a function that claims to be canceled', $query->('app.raises_as(NEW.summary)'), '', { summary => q{'query_canceled'} }, qr/^a function raised an exception$/ ],
	[ 'a function that claims to be serializable', $query->('app.raises_as(NEW.summary)'), '', { summary => q{'serialization_failure'} }, qr/^a function raised an exception$/ ],
	[ 'a function that loops', $query->('app.loops()'), '', {}, qr/the query took longer than 1000 ms/ ],
	[ 'a function that recurses', $query->('app.recurses(1)'), '', {}, qr/stack depth limit exceeded/ ],
	[ 'a function that sleeps', $query->('pg_sleep(60)'), '', {}, qr/the query took longer than 1000 ms/ ],
	[ 'a function that writes', $query->('app.writes()'), '', {}, qr/cannot execute INSERT in a read-only transaction/ ],
	[ 'a function that takes numbers', $query->(q{nextval('app.numbers')}), '', {}, qr/cannot execute nextval\(\) in a read-only transaction/ ],
	[ 'a function that ends the transaction', $query->('app.ends()'), '', {}, qr/invalid transaction termination/ ],
	[ 'a function that emits', $query->(q{chatwebhook.emit('conversation.ended', NULL, NULL, '{}')}), '', {}, qr/cannot execute chatwebhook.emit\(\) in a read-only transaction/ ],
	[ 'a million rows', $query->('g', ' FROM generate_series(1, 1000000) AS g'), '', {}, qr/returned more than 1000 rows/ ],
	[ 'rows of 100 MB', $query->("repeat('x', 1000000)", ' FROM generate_series(1, 100) AS g'), '', {}, qr/too large|more than \d+ bytes/ ],
	[ 'a cross join without end', $query->('count(*)', ' FROM generate_series(1, 100000) AS a, generate_series(1, 100000) AS b'), '', {}, qr/took longer/ ],
	[ 'several rows from a scalar subquery', $query->('(SELECT g FROM generate_series(1, 2) AS g)'), '', {}, qr/more than one row returned by a subquery/ ],
	[ 'a value of 2 MB from the query', $query->($huge), '', {}, qr/too large/ ],
	[ 'an id that is an object', $query->(q{'x'}, q{, '{}'::jsonb AS "chatbotId"}), '', {}, qr/column "chatbotId" is an object/ ],
	[ 'a missing key in some rows', $query->('nullif(g, 2)', ' FROM generate_series(1, 3) AS g'), '', {}, qr/lacks the required key "conversationSummary"/ ],
	[ 'the view of the query is gone', $query->('app.goes()'), 'DROP VIEW app."chatwebhook_lead.captured_insert"', {}, qr/could not find the view with the query of trigger "chatwebhook_lead.captured_insert"/ ],
	[ 'a function that a function calls is gone', $query->('app.reads()'), 'ALTER TABLE app.other RENAME TO another', {}, qr/relation "app.other" does not exist/, undef, 'ALTER TABLE app.another RENAME TO other' ],
	[ 'a right that was revoked', $query->('secret', ' FROM app.other WHERE app.other.id = 1'), 'REVOKE SELECT ON app.other FROM app_owner', {}, qr/permission denied for table other/, undef, 'GRANT SELECT ON app.other TO app_owner' ],
	[ 'a right on the table that was revoked', $query->(q{'x'}), 'REVOKE TRIGGER ON app.chat FROM app_owner', {}, qr/could not find the view/ ],
	[ 'another owner without rights', $query->('secret', ' FROM app.other WHERE app.other.id = 1'), 'ALTER VIEW app."chatwebhook_lead.captured_insert" OWNER TO chat', {}, qr/permission denied for table other/ ],
	[ 'a lock that another holds', $query->('n::text', ' FROM app.locked'), '', {}, qr/the query took longer than 1000 ms/ ],
	[ 'a composite value that fails', q{'{"email": "email", "source": "@w", "conversationSummary": "=(NEW.pair).a / NEW.zero"}'}, '', { pair => q{'(1,x)'} }, qr/division by zero/ ],
	[ 'a domain that fails', $query->('NEW.zero::app.positive'), '', {}, qr/violates check constraint/ ],
	[ 'a regular expression that fails', $query->(q{NEW.email ~ NEW.source}), '', { source => q{'('} }, qr/invalid regular expression/ ],
	[ 'a jsonpath that fails', $query->(q{jsonb_path_query_first('{"a": 1}', NEW.source::jsonpath)}), '', { source => q{'strict $.b'} }, qr/JSON object does not contain key/ ],
	[ 'data that does not match its schema', $mapping, $validator->('RETURN false'), {}, qr/^event "lead.captured" failed validation: its data does not match the schema of its type$/, undef, $valid ],
	[ 'a schema validator that raises', $mapping, $validator->(q{RAISE 'the data is %', instance}), {}, qr/^event "lead.captured" failed validation: the schema validator raised an error$/, undef, $valid ],
	[ 'a schema validator that loops', $mapping, $validator->('LOOP END LOOP'), {}, qr/^event "lead.captured" failed validation: the schema validator took longer than 1000 ms$/, undef, $valid ],
	[ 'a schema validator that writes', $mapping, $validator->('INSERT INTO app.done VALUES (0); RETURN true'), {}, qr/^event "lead.captured" failed validation: the schema validator raised an error$/, undef, $valid ],
	[ 'a schema validator that is gone', $mapping, 'DROP FUNCTION app.validator', {}, qr/^event "lead.captured" failed validation: the schema validator cannot be called$/, undef, $valid ],
	[ 'a schema validator that finds the query wrong', $query->('NEW.id'), $validator->('RETURN jsonb_typeof(instance -> \'conversationSummary\') = \'string\''), {}, qr/does not match the schema/, undef, $valid ],
	[ 'a cancellation that is swallowed', $query->('app.cancels()'), '', {}, undef ],
);
script(q{CREATE DOMAIN app.positive AS int CHECK (VALUE > 0);});

my $locker = Session->new($node, 'postgres');
my $chat = Session->new($node, 'postgres');
my $slowest = 0;
my $plain = 0;

# Make the table anew, and watch it.
sub make_watch
{
	my ($fault) = @_;
	my ($name, $how, $then, $values, $message, $type) = @$fault;

	$type //= $lead;
	script("DROP TABLE IF EXISTS app.chat; INSERT INTO chatwebhook.event_type (name) VALUES ('test.gone') ON CONFLICT DO NOTHING;
		CREATE TABLE app.chat (id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, email text NOT NULL DEFAULT 'a\@b.example',
			summary text DEFAULT 's', zero int NOT NULL DEFAULT 0, parts text[], raw json, pair app.pair, source text);
		ALTER TABLE app.chat OWNER TO app_owner; GRANT ALL ON app.chat TO chat;
		SET ROLE app_owner; SET client_min_messages = warning; SELECT chatwebhook.watch('app.chat', '$type', $how); RESET ROLE; $then");
}

# The INSERT of a row with these values.
sub insert_of
{
	my ($values) = @_;
	my @columns = grep { defined $values->{$_} } sort keys %$values;
	return 'INSERT INTO app.chat ' . (@columns ? '(' . join(', ', @columns) . ') VALUES (' . join(', ', map { $values->{$_} } @columns) . ')' : 'DEFAULT VALUES');
}

# The faults that are raised are those that are caught.
foreach my $fault (@faults)
{
	my ($name, $how, $then, $values, $message, $type, $undo) = @$fault;

	make_watch($fault);
	$locker->query('BEGIN; LOCK TABLE app.locked') if $name =~ /a lock/;
	sql('DELETE FROM app.done');
	my $insert = insert_of($values);
	my $start = time;
	my $answer = $chat->query("BEGIN; INSERT INTO app.done VALUES (1); $insert; INSERT INTO app.done VALUES (2); COMMIT");
	my $took = time - $start;
	is($answer->{error}, undef, "$name: the statement succeeds");
	cmp_ok($took, '<', scaled(1.1) + 1, 'in time');
	is(sql('SELECT count(*) FROM app.chat'), 1, 'the row is there');
	is(sql('SELECT array_agg(n ORDER BY n) FROM app.done'), '{1,2}', 'and the other work, and no other');
	if (defined $message)
	{
		my $failure = 'FROM chatwebhook.emit_failure';
		becomes_true("SELECT count(*) = 1 $failure", 'it is counted');
		is(sql("SELECT failures || ' ' || trigger_name || ' ' || relation $failure"),
			'1 chatwebhook_' . ($type // $lead) . '_insert app.chat', 'once, for this watch');
		like(sql("SELECT message $failure"), $message, 'and says why');
		is(sql("SELECT example $failure"), 'id=1', 'and for which row');
		is(sql("SELECT count(*) FROM chatwebhook.alert WHERE kind = 'emit_failed' AND closed_at IS NULL"), 1, 'an alert is open');
		$answer = $chat->query("SET chatwebhook.on_emit_error = error; $insert");
		isnt($answer->{error}, undef, 'with on_emit_error = error it is an error');
		$chat->query('RESET chatwebhook.on_emit_error');
		is(sql('SELECT count(*) FROM app.chat'), 1, 'which ends the statement');
	}
	$locker->query('ROLLBACK') if $name =~ /a lock/;
	$chat->query('ROLLBACK');
	sql($undo) if defined $undo;
	# dropping the watch closes its alert
	script("SET client_min_messages = warning; SELECT chatwebhook.unwatch('app.chat', '" . ($type // $lead) . "')");
	is(sql("SELECT (SELECT count(*) FROM chatwebhook.emit_failure) + (SELECT count(*) FROM chatwebhook.alert WHERE closed_at IS NULL)"), 0,
		'unwatch() forgets it');
}
$receiver->wait_for(1, 'alerts');
cmp_ok($receiver->count('alerts'), '>', 0, 'alerts are delivered');

# Many rows in one statement: each is counted, and the time-out waited for once.
make_watch([ 'many', $query->('app.loops()'), '', {}, undef ]);
my $start = time;
is($chat->query("INSERT INTO app.chat (summary) SELECT 's' FROM generate_series(1, 50)")->{error}, undef, '50 rows whose query loops');
cmp_ok(time - $start, '<', scaled(1.1) + 3, 'wait hardly longer than one');
becomes_true('SELECT sum(failures) = 50 FROM chatwebhook.emit_failure', 'and are counted');
is($chat->query("BEGIN; INSERT INTO app.chat DEFAULT VALUES; ROLLBACK")->{error}, undef, 'one more, rolled back');
becomes_true('SELECT sum(failures) = 51 FROM chatwebhook.emit_failure', 'is counted as well');

# A cancel request is not taken for the time-out.
make_watch([ 'cancel', $query->('pg_sleep(60)'), '', {}, undef ]);
$chat->query("SET chatwebhook.emit_timeout = '60s'");
my $pid = $chat->query('SELECT pg_backend_pid()')->{rows};
chomp $pid;
$chat->begin('INSERT INTO app.chat DEFAULT VALUES');
becomes_true("SELECT wait_event = 'PgSleep' FROM pg_stat_activity WHERE pid = $pid", 'a query is under way');
sql("SELECT pg_cancel_backend($pid)");
like($chat->end->{error}, qr/canceling statement due to user request/, 'a cancel request ends the statement');
$chat->query("RESET chatwebhook.emit_timeout; SET statement_timeout = '100ms'");
like($chat->query('INSERT INTO app.chat DEFAULT VALUES')->{error}, qr/statement timeout/, 'as does statement_timeout');

done_testing();
