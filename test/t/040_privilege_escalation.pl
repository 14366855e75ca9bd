# Attempts to have one's code run by the worker, or by a definer function.
#
# Only a server with a worker at work, and with a hostile role that owns the
# database and has been granted TRIGGER on the extension's tables, can show that
# none of that role's code runs with the rights of either, and that deliveries go
# on all the while.  Whatever is planted here reports in the server's log as whom it
# ran, which no rollback takes back.

use strict;
use warnings;

use FindBin;
use lib "$FindBin::Bin/../lib";

use Chatwebhook;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;
use Time::HiRes qw(time);

# What the database is set to must not hold up the test itself.
$ENV{PGOPTIONS} = join ' ', map { "-c $_" } qw(search_path=public role=none
  statement_timeout=0 lock_timeout=0
  idle_in_transaction_session_timeout=0 default_transaction_read_only=off
  session_replication_role=origin
  row_security=on check_function_bodies=on exit_on_error=off
  idle_session_timeout=0);

my $receiver = start_receiver();
my $node = new_node(
	'main',
	'chatwebhook.log_attempts' => 'all',
	'log_line_prefix' => '%b | ');
my $owner = sql('SELECT current_user');
my $log_read = 0;

# Run SQL as a role; its output, and what it says.
sub as_role
{
	my ($role, $sql) = @_;
	my ($out, $err) = ('', '');
	$node->psql('postgres', "SET ROLE $role;\n$sql",
		stdout => \$out, stderr => \$err, on_error_stop => 0);
	return wantarray ? ($out, $err) : $out;
}

# This is refused.
sub is_refused
{
	my ($role, $sql, $why, $what) = @_;
	my (undef, $err) = as_role($role, $sql);
	like($err, $why, $what);
}

# What was planted and has run since the last call: what, as whom, in what.
sub witnessed
{
	my $log = slurp_file($node->logfile, $log_read);
	$log_read = -s $node->logfile;
	my %seen;
	$seen{"$2 in $1"} = 1 while $log =~ /^(.*?) \| LOG:  witness: (.*?)(?: at character \d+)?$/mg;
	return sort keys %seen;
}

# What has run does so as one of these roles, in a session, and nothing else.
sub runs_only_as
{
	my ($roles, $what) = @_;
	my %allowed = map { $_ => 1 } @$roles;
	my @others = grep { !(/ as (\S+) in client backend$/ && $allowed{$1}) } witnessed();
	is("@others", '', $what);
}

# Emit an event that every webhook gets, and wait for what becomes of it.
sub emit
{
	my ($n) = @_;
	sql("SELECT chatwebhook.emit('message.sent', 'bot', NULL, '{\"role\": \"bot\", \"content\": \"x\"}')
		 FROM generate_series(1, " . ($n // 1) . ")");
	return wait_idle($node);
}

script(q{
	CREATE ROLE mallory;
	CREATE ROLE app;
	CREATE ROLE victim;
	SELECT chatwebhook.grant_admin('victim'), chatwebhook.grant_admin('mallory');
	ALTER DATABASE postgres OWNER TO mallory;
	CREATE SCHEMA evil AUTHORIZATION mallory;
	GRANT USAGE ON SCHEMA evil TO PUBLIC;
	GRANT CREATE ON SCHEMA public TO mallory;
	GRANT TRIGGER ON ALL TABLES IN SCHEMA chatwebhook TO mallory;
	REVOKE TRIGGER ON chatwebhook.webhook, chatwebhook.event_type, chatwebhook.vault FROM mallory;
});
as_role('mallory', q{
	CREATE FUNCTION evil.witness(what text) RETURNS void LANGUAGE plpgsql SET search_path = pg_catalog AS $$
	BEGIN
		RAISE LOG 'witness: % as %', what, current_user;
	END
	$$;
	CREATE FUNCTION evil.trigger() RETURNS trigger LANGUAGE plpgsql AS $$
	BEGIN
		PERFORM evil.witness('trigger on ' || TG_TABLE_NAME);
		RETURN CASE WHEN TG_OP = 'DELETE' THEN OLD ELSE NEW END;
	END
	$$;
});

my ($ok) = create_webhook($node, name => 'ok', backoff => '10 ms', path => '/flaky/1');
my ($bad) = create_webhook($node, name => 'bad', path => '/status/400');
my ($hanging) = create_webhook($node, name => 'hanging', path => '/ok', events => ['lead.captured'], enabled => 'f');
# what is planted says it when it runs, or nothing below would say much
witnessed();
as_role('mallory', q{SELECT evil.witness('test')});
is(join('', witnessed()), 'test as mallory in client backend', 'the witness speaks');

subtest 'triggers on the extension\'s tables' => sub {
	foreach my $table (qw(attempt dead event health history queue))
	{
		foreach my $each (qw(ROW STATEMENT))
		{
			my (undef, $err) = as_role('mallory', "CREATE TRIGGER a_$each BEFORE INSERT OR UPDATE OR DELETE ON chatwebhook.$table
				FOR EACH $each EXECUTE FUNCTION evil.trigger();
				CREATE TRIGGER z_$each AFTER INSERT OR UPDATE OR DELETE ON chatwebhook.$table
				FOR EACH $each EXECUTE FUNCTION evil.trigger()");
			is($err, '', "one who has TRIGGER puts some on $table, for each $each");
		}
		is_refused('mallory', "ALTER TABLE chatwebhook.$table ENABLE ALWAYS TRIGGER z_row",
			qr/must be owner/, "but cannot have it fire always");
	}
	is_refused('mallory', "CREATE TRIGGER t AFTER INSERT ON chatwebhook.$_ EXECUTE FUNCTION evil.trigger()",
		qr/permission denied/, "nor put one on $_, without the right") foreach qw(webhook vault event_type);

	ok(emit(3), 'deliveries go on');
	is(sql('SELECT string_agg(status || n, \' \' ORDER BY status) FROM
			(SELECT status, count(*) AS n FROM chatwebhook.delivery GROUP BY 1) s'),
		'dead3 delivered3', 'some were retried and delivered, some given up');
	is(sql("SELECT count(*) FROM chatwebhook.attempt"), 9, 'their attempts were kept');
	is(sql("SELECT total FROM chatwebhook.health WHERE webhook_id = '$ok'"), 6, 'and counted');
	is(join(', ', witnessed()), '', 'no trigger has run, as the worker or in the emitting session');

	# functions that write with the owner's rights
	my ($out, $err) = as_role('victim', q{
		UPDATE chatwebhook.webhook SET enabled = false;
		SELECT count(*) FROM (SELECT chatwebhook.retry(id) FROM chatwebhook.dead_letter) r;
		SELECT count(*) FROM (SELECT chatwebhook.cancel(id) FROM chatwebhook.delivery WHERE status = 'pending' LIMIT 2) c;
		SELECT count(*) FROM (SELECT chatwebhook.retry(id) FROM chatwebhook.delivery WHERE status = 'canceled') c;
		SELECT secret IS NOT NULL FROM chatwebhook.create_webhook('new', 'https://example.com/');
		DELETE FROM chatwebhook.webhook WHERE name IN ('new', 'bad');
		UPDATE chatwebhook.webhook SET enabled = name <> 'hanging'});
	is($err, '', 'retry(), cancel(), create_webhook() and DELETE work');
	is($out, "3\n2\n2\nt", 'and do something');
	is(join(', ', witnessed()), '', 'no trigger has run as their owner');
	sql(q{DELETE FROM chatwebhook.attempt WHERE attempt = 1 AND delivery_id = (SELECT min(delivery_id) FROM chatwebhook.attempt)});
	is(join(', ', witnessed()), "trigger on attempt as $owner in client backend",
		'the triggers are there: one who writes by hand runs them');
	sql(q{DO $$ DECLARE t record; BEGIN
		FOR t IN SELECT tgname, tgrelid::regclass AS r FROM pg_trigger WHERE tgfoid = 'evil.trigger'::regproc LOOP
			EXECUTE format('DROP TRIGGER %I ON %s', t.tgname, t.r); END LOOP; END $$});
};

subtest 'operators, functions and types that shadow those of the system' => sub {
	# each says that it ran, and does what the original does
	my ($out, $err) = as_role('mallory', q{
		DO $$
		DECLARE
			types constant regtype[] := '{int4,int8,text,uuid,timestamptz,interval,bool,jsonb,jsonpath,float8,numeric,name,oid,bytea,text[]}';
			o record;
			f text;
			n integer := 0;
		BEGIN
			FOR o IN SELECT p.oprname AS name, p.oprleft::regtype AS l, p.oprright::regtype AS r, p.oprresult::regtype AS result
				FROM pg_operator p WHERE p.oprnamespace = 'pg_catalog'::regnamespace AND p.oprcode <> 0
				AND p.oprleft = ANY (types || '{anyarray}'::regtype[]) AND p.oprright = ANY (types || '{anyarray}'::regtype[])
				AND p.oprresult = ANY (types) AND p.oprname IN ('=', '<>', '<', '>', '<=', '>=', '+', '-', '*', '||', '~', '!~', '#>>', '->>', '@@', '@?') LOOP
				n := n + 1;
				EXECUTE format('CREATE FUNCTION evil.op%s(l %s, r %s) RETURNS %s LANGUAGE plpgsql SET search_path = pg_catalog AS $f$
					BEGIN PERFORM evil.witness(%L); RETURN l OPERATOR(pg_catalog.%s) r; END $f$',
					n, o.l, o.r, o.result, 'operator ' || o.name, o.name);
				EXECUTE format('CREATE OPERATOR evil.%s (LEFTARG = %s, RIGHTARG = %s, FUNCTION = evil.op%s)', o.name, o.l, o.r, n);
			END LOOP;
			FOR o IN SELECT p.proname AS name, pg_get_function_identity_arguments(p.oid) AS args, p.prorettype::regtype AS result, p.pronargs AS nargs
				FROM pg_proc p WHERE p.pronamespace = 'pg_catalog'::regnamespace AND p.prokind = 'f' AND NOT p.proretset AND p.provariadic = 0
				AND p.prorettype = ANY (types) AND p.proargtypes::oid[] <@ types::oid[] AND p.proname IN ('now', 'clock_timestamp', 'btrim',
				'length', 'left', 'right', 'strpos', 'starts_with', 'regexp_replace', 'lower', 'upper', 'concat', 'quote_literal', 'quote_ident', 'current_setting',
				'pg_has_role', 'has_table_privilege', 'round', 'to_char', 'jsonb_typeof', 'octet_length', 'gen_random_uuid', 'convert_to', 'array_to_string') LOOP
				SELECT coalesce(string_agg('$' || i, ', '), '') INTO f FROM generate_series(1, o.nargs) i;
				EXECUTE format('CREATE FUNCTION evil.%I(%s) RETURNS %s LANGUAGE plpgsql SET search_path = pg_catalog AS $f$
					BEGIN PERFORM evil.witness(%L); RETURN pg_catalog.%I(%s); END $f$', o.name, o.args, o.result, 'function ' || o.name, o.name, f);
			END LOOP;
		END
		$$;
		CREATE FUNCTION evil.unnest(a anyarray) RETURNS SETOF anyelement LANGUAGE plpgsql AS $$
			BEGIN PERFORM evil.witness('function unnest'); RETURN QUERY SELECT pg_catalog.unnest(a); END $$;
		CREATE FUNCTION evil.format(f text, VARIADIC a text[]) RETURNS text LANGUAGE plpgsql AS $$
			BEGIN PERFORM evil.witness('function format'); RETURN pg_catalog.format(f, VARIADIC a); END $$;
		CREATE FUNCTION evil.format(f text, a uuid) RETURNS text LANGUAGE plpgsql AS $$
			BEGIN PERFORM evil.witness('function format'); RETURN f; END $$;
		CREATE FUNCTION evil.checked(text) RETURNS boolean LANGUAGE plpgsql AS $$
			BEGIN PERFORM evil.witness('domain'); RETURN true; END $$;
		CREATE DOMAIN evil.text AS pg_catalog.text CHECK (evil.checked(VALUE));
		CREATE DOMAIN evil.jsonb AS pg_catalog.jsonb CHECK (evil.checked(VALUE::pg_catalog.text));
		CREATE DOMAIN evil.uuid AS pg_catalog.uuid CHECK (evil.checked(VALUE::pg_catalog.text));
		CREATE VIEW evil.pg_roles AS SELECT *, evil.checked(rolname) FROM pg_catalog.pg_roles;
		CREATE TABLE evil.webhook (id pg_catalog.uuid);
		CREATE TABLE evil.pg_extension (extname name, oid oid, extversion pg_catalog.text);
		GRANT SELECT ON ALL TABLES IN SCHEMA evil TO PUBLIC;
		SELECT count(*) > 100 FROM pg_operator WHERE oprnamespace = 'evil'::regnamespace;
	});
	is($err, '', 'they can be made');
	is($out, 't', 'and are many');
	witnessed();
	as_role('mallory', q{SET search_path = evil, pg_catalog; SELECT 1::int8 = 1::int8, 'x'::text, btrim('x'::pg_catalog.text)});
	is(join(', ', witnessed()), join(', ', map { "$_ as mallory in client backend" } 'domain', 'function btrim', 'operator ='),
		'in a search_path, they run');

	# the owner of the database, and a superuser who knows no better
	my ($dummy, $said) = as_role('mallory', q{ALTER DATABASE postgres SET search_path = evil, public, pg_catalog});
	is($said, '', 'the owner of the database puts them into everybody\'s search_path');
	sql("ALTER ROLE \"$owner\" IN DATABASE postgres SET search_path = evil, public, pg_catalog");
	end_sessions();
	my $pid = sql('SELECT pid FROM chatwebhook.worker_status');
	sql("SELECT pg_terminate_backend($pid)");
	becomes_true("SELECT count(*) = 1 FROM chatwebhook.worker_status WHERE pid <> $pid",
		'a worker starts in it');
	create_webhook($node, name => 'refused', path => '/status/400');
	create_webhook($node, name => 'gone', path => '/gone');
	witnessed();
	ok(emit(2), 'deliveries go on');
	is(join(', ', witnessed()), '', 'and nothing of it has run as the worker, nor in the emitting session');
	is(sql(q{SELECT disabled_reason IS NOT NULL FROM chatwebhook.webhook WHERE name = 'gone'}), 't', 'the worker has disabled one');

	# the same in a session, for every definer function, and tables in pg_temp
	foreach my $role ('victim', 'mallory')
	{
		($out, $err) = as_role($role, q{
			SET search_path = pg_temp, evil, public, pg_catalog;
			CREATE TEMP TABLE webhook (id pg_catalog.uuid, enabled boolean, name pg_catalog.text, chatbot_id pg_catalog.text);
			CREATE TEMP TABLE vault (webhook_id pg_catalog.uuid, name pg_catalog.text, value bytea);
			CREATE TEMP TABLE pg_roles (oid oid, rolname name, rolsuper boolean);
			CREATE TEMP TABLE grantee (role regrole, access pg_catalog.text);
			SELECT id AS new FROM chatwebhook.create_webhook('new', 'https://example.com/', events => '{lead.captured,message.*}') \gset
			SELECT id AS ed FROM chatwebhook.create_webhook('ed', 'https://example.com/', chatbot_id => 'x', signing => 'v1a') \gset
			SELECT chatwebhook.secret(:'new') IS NOT NULL, chatwebhook.public_key(:'ed') IS NOT NULL,
				chatwebhook.rotate_secret(:'new') IS NOT NULL;
			SELECT chatwebhook.set_credential(:'new', 'token', 'x');
			SELECT chatwebhook.set_credential(:'new', 'token', NULL);
			UPDATE chatwebhook.webhook SET url = 'https://example.org/', events = '{*}', signing = 'v1a' WHERE name = 'new';
			INSERT INTO chatwebhook.event_type (name, required) VALUES ('evil.type', '{a,b}');
			UPDATE chatwebhook.event_type SET required = '{}' WHERE name = 'evil.type';
			DELETE FROM chatwebhook.event_type WHERE name = 'evil.type';
			SELECT chatwebhook.emit('message.sent', 'x', NULL, '{"role": "bot", "content": "x"}') IS NOT NULL;
			SELECT count(chatwebhook.cancel(id)) > 0 FROM chatwebhook.delivery WHERE webhook_id IN (:'new', :'ed');
			SELECT count(chatwebhook.retry(id)) > 0 FROM chatwebhook.delivery WHERE webhook_id IN (:'new', :'ed');
			SELECT count(*) FROM chatwebhook.dead_letter d, chatwebhook.webhook_health h, chatwebhook.worker_status s, chatwebhook.attempt a;
			SELECT chatwebhook.wait_until_idle('0') IS NOT NULL;
			SELECT success IS NOT NULL FROM chatwebhook.test_webhook((SELECT w.id FROM chatwebhook.webhook w WHERE w.name = 'ok'));
			SELECT chatwebhook.verify('x', chatwebhook.sign('x', 'y'), 'y');
			CREATE TEMP TABLE watched (a integer);
			SELECT chatwebhook.watch('watched', 'conversation.ended', '{"conversationId": "a"}', 'NEW.a > 0');
			INSERT INTO watched VALUES (1);
			SELECT chatwebhook.unwatch('watched', 'conversation.ended');
			DELETE FROM chatwebhook.webhook WHERE name IN ('new', 'ed')});
		is($err, '', "$role calls every function in a hostile search_path, with tables in pg_temp");
		unlike($out, qr/^f$|\bf\|/m, 'and they do what they should');
		runs_only_as([$role], 'what was planted has run as nobody but the caller');
	}
	script(q{SET search_path = evil, pg_catalog; SELECT chatwebhook.rekey(), chatwebhook.grant_app('app'), chatwebhook.grant_reader('app'), chatwebhook.revoke_access('app')});
	unlike(join(', ', witnessed()), qr/operator|function (?!witness)/, 'nor in those of the administrator, who has it in his own search_path');
	sql("DELETE FROM chatwebhook.webhook WHERE name IN ('refused', 'gone')");
	script("ALTER ROLE \"$owner\" IN DATABASE postgres RESET ALL; ALTER DATABASE postgres RESET ALL");
	end_sessions();
};

# An operator in an earlier schema is taken if its types fit as well as those of
# PostgreSQL's own: it need not have their signature.  So every pair of types is
# tried that code of ours may have, and every name of a type or function in it.
subtest 'every signature' => sub {
	my ($out, $err) = as_role('mallory', q{
		CREATE SCHEMA evil2;
		GRANT USAGE ON SCHEMA evil2 TO PUBLIC;
		SET search_path = pg_catalog;
		CREATE FUNCTION evil2.said(what text) RETURNS boolean LANGUAGE plpgsql SET search_path = pg_catalog AS $$
		BEGIN
			RAISE LOG 'witness: % as %', what, current_user;
			RETURN true;
		END
		$$;
		DO $$
		DECLARE
			types constant text[] := '{text,name,varchar,bpchar,"\"char\"",oid,regclass,int4,int8,bool,json,jsonb,jsonpath,uuid,
				timestamptz,interval,numeric,float8,bytea,text[],name[],uuid[],int4[],int8[],record,anyelement,anyarray,anynonarray,
				anycompatible,anycompatiblearray,anycompatiblenonarray}';
			-- what each results in
			operators constant jsonb := '{"=": "bool", "<>": "bool", "<": "bool", ">": "bool", "<=": "bool", ">=": "bool",
				"~": "bool", "!~": "bool", "~~": "bool", "!~~": "bool", "@>": "bool", "<@": "bool", "&&": "bool", "?": "bool",
				"@@": "bool", "||": "text", "#>>": "text", "->>": "text", "->": "jsonb", "#>": "jsonb", "-": "jsonb", "+": "int8"}';
			f record;
			l text;
			r text;
			o text;
			result text;
		BEGIN
			FOREACH l IN ARRAY types LOOP
				FOREACH r IN ARRAY types LOOP
					FOR result IN SELECT DISTINCT value FROM jsonb_each_text(operators) LOOP
						EXECUTE format('CREATE FUNCTION evil2.op_%s(l %s, r %s) RETURNS %s LANGUAGE plpgsql SET search_path = pg_catalog AS $f$
							BEGIN PERFORM evil2.said(%L); RETURN NULL; END $f$', result, l, r, result, format('operator (%s, %s)', l, r));
						FOR o IN SELECT key FROM jsonb_each_text(operators) WHERE value = result LOOP
							EXECUTE format('CREATE OPERATOR evil2.%s (LEFTARG = %s, RIGHTARG = %s, FUNCTION = evil2.op_%s)', o, l, r, result);
						END LOOP;
					END LOOP;
				END LOOP;
			END LOOP;
			-- functions that the extension's own call, or that have the name of one
			FOR f IN SELECT p.proname AS name, p.oid AS id, pg_get_function_identity_arguments(p.oid) AS args, pg_get_function_result(p.oid) AS result
				FROM pg_proc p WHERE p.pronamespace = 'pg_catalog'::regnamespace AND p.prokind = 'f' AND p.provariadic = 0
				AND p.proallargtypes IS NULL
				AND NOT EXISTS (SELECT FROM unnest(p.proargtypes::oid[] || p.prorettype) t WHERE t IN ('"any"'::regtype, 'internal'::regtype, 'cstring'::regtype, 'trigger'::regtype))
				AND EXISTS (SELECT FROM pg_proc q WHERE q.pronamespace = 'chatwebhook'::regnamespace AND q.prosrc ~ ('\m' || p.proname || '\(')) LOOP
				BEGIN
					EXECUTE format('CREATE FUNCTION evil2.%I(%s) RETURNS %s LANGUAGE plpgsql SET search_path = pg_catalog AS $f$
						BEGIN PERFORM evil2.said(%L); RETURN%s; END $f$', f.name, f.args, f.result, 'function ' || f.name,
						CASE WHEN f.result <> 'void' AND f.result NOT LIKE 'SETOF %' THEN ' NULL' ELSE '' END);
				EXCEPTION WHEN invalid_function_definition OR feature_not_supported THEN
					NULL; -- a type that PL/pgSQL does not take
				END;
			END LOOP;
		END
		$$;
		-- and functions that take anything else
		CREATE FUNCTION evil2.format(f text, VARIADIC a anycompatiblearray) RETURNS text LANGUAGE plpgsql AS $$
			BEGIN PERFORM evil2.said('function format'); RETURN f; END $$;
		CREATE FUNCTION evil2.concat(VARIADIC a anycompatiblearray) RETURNS text LANGUAGE plpgsql AS $$
			BEGIN PERFORM evil2.said('function concat'); RETURN ''; END $$;
		CREATE FUNCTION evil2.count(a anyelement) RETURNS int8 LANGUAGE plpgsql AS $$
			BEGIN PERFORM evil2.said('function count'); RETURN 0; END $$;
		-- last, the types
		CREATE TYPE evil2.row AS (a int4);
		DO $$
		DECLARE
			t text;
		BEGIN
			FOREACH t IN ARRAY '{text,name,varchar,bpchar,char,oid,regclass,regproc,regprocedure,regrole,regtype,int2,int4,int8,integer,bigint,bool,boolean,json,
				jsonb,jsonpath,uuid,timestamptz,timestamp,date,interval,numeric,float8,bytea}'::text[] LOOP
				EXECUTE format('CREATE DOMAIN evil2.%I AS pg_catalog.%s CHECK (evil2.said(%L))', t,
					CASE t WHEN 'char' THEN '"char"' WHEN 'integer' THEN 'int4' WHEN 'bigint' THEN 'int8' WHEN 'boolean' THEN 'bool' ELSE t END, 'type ' || t);
			END LOOP;
		END
		$$;
		CREATE DOMAIN evil2.record AS evil2.row CHECK (evil2.said('type record'));
		SELECT count(*) FROM pg_operator WHERE oprnamespace = 'evil2'::regnamespace;
		SELECT count(*) > 100 FROM pg_proc WHERE pronamespace = 'evil2'::regnamespace AND proname !~ '^op_';
	});
	is($err, '', 'they can be made');
	is($out, 31 * 31 * 22 . "\nt", 'and are many');
	script(q{
		CREATE TABLE public.chat (bot text, n integer);
		INSERT INTO public.chat VALUES ('bot', 1), ('other', 2);
		CREATE FUNCTION public.con(event jsonb, webhook jsonb, replies jsonb) RETURNS chatwebhook.request LANGUAGE sql STABLE
			AS 'SELECT NULL::chatwebhook.request'});
	my ($all) = create_webhook($node, name => 'all');
	my ($own) = create_webhook($node, name => 'own', chatbot_id => 'bot');
	my ($slack) = create_webhook($node, name => 'slack', connector => 'slack');
	ok(wait_idle($node), 'idle');
	sql(q{SELECT chatwebhook.emit('message.sent', 'bot', 'c', '{"role": "bot", "content": "x"}')});
	my $delivery = sql('SELECT min(id) FROM chatwebhook.delivery');
	ok(wait_idle($node), 'idle');
	my $hostile = 'SET search_path = evil2, public, pg_catalog;';
	witnessed();
	as_role('mallory', "$hostile SELECT 'x'::name = 'x'::pg_catalog.text");
	like(join(', ', witnessed()), qr/operator \(name, text\) as mallory.*type name as mallory/, 'in a search_path, they run');

	# a superuser who has all that in front of pg_catalog; his own statements use nothing of it
	foreach my $call (
		q{SELECT chatwebhook.watch('chat', 'feedback.received', '{"chatbotId": "bot", "rating": "n", "from": "@here"}', 'NEW.n IS NOT NULL')},
		q{SELECT chatwebhook.watch('chat', 'conversation.ended', operation => 'UPDATE')},
		q{SELECT chatwebhook.watch('chat', 'conversation.ended', operation => 'TRUNCATE')},
		q{SELECT chatwebhook.watch(NULL, NULL)},
		q{SELECT chatwebhook.watch('chat', 'conversation.ended', '{"a": "missing"}')},
		q{SELECT chatwebhook.watch('chat', 'conversation.ended', '[]')},
		q{INSERT INTO chat VALUES ('bot', 3)},
		q{UPDATE chat SET n = NULL},
		q{SELECT chatwebhook.unwatch('chat', 'feedback.received')},
		q{SELECT chatwebhook.unwatch('chat', 'conversation.ended', 'UPDATE')},
		q{SELECT chatwebhook.unwatch('chat', 'conversation.ended')},
		qq{SELECT chatwebhook.backfill('$all', 'chat', 'feedback.received', '{"chatbotId": "bot", "conversationId": "n", "rating": "n", "from": "\@here"}')},
		qq{SELECT chatwebhook.backfill('$all', 'chat', 'conversation.ended')},
		qq{SELECT chatwebhook.backfill('$own', 'chat', 'feedback.received', '{"chatbotId": "bot", "rating": "n"}')},
		qq{SELECT chatwebhook.backfill('$own', 'chat', 'conversation.ended', '{"chatbotId": "bot"}', 'NEW.n IS NOT NULL', dry_run => true)},
		qq{SELECT chatwebhook.backfill('$own', 'chat', 'conversation.ended', '{"chatbotId": "\@bot"}', dry_run => true)},
		q{SELECT chatwebhook.backfill('00000000-0000-0000-0000-000000000000', 'chat', 'conversation.ended')},
		q{SELECT chatwebhook.create_webhook('new', 'https://example.com/', '{lead.captured,message.*}', 'x', '$.data.a == 1', auth => '{"type": "bearer", "token": "{{token}}"}')},
		q{SELECT chatwebhook.create_webhook('new', 'https://example.com/', secret => 'whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw')},
		q{SELECT chatwebhook.create_webhook('new', 'https://example.com/', signing => 'v1a', connector => 'zendesk')},
		q{INSERT INTO chatwebhook.webhook (name, url, headers) VALUES ('new', 'https://example.com/', '{"X-A": "b"}')},
		q{UPDATE chatwebhook.webhook SET events = '{*}', timeout = '1 s', enabled = true},
		q{INSERT INTO chatwebhook.event_type (name, required) VALUES ('evil.type', '{a,b}')},
		q{INSERT INTO chatwebhook.connector (name, function) VALUES ('con', 'public.con(pg_catalog.jsonb,pg_catalog.jsonb,pg_catalog.jsonb)')},
		q{UPDATE chatwebhook.connector SET replies = '[{"status": 409, "means": "success"}]'},
		(map { qq{SELECT chatwebhook.preview('$_', '{"type": "message.sent", "data": {"role": "bot", "content": "x"}}')} } $all, $slack),
		qq{SELECT chatwebhook._preview('$slack', '{"type": "message.sent", "data": {"role": "bot", "content": "x"}}', '[]')},
		(map { "SELECT chatwebhook.test_webhook('$_')" } $all, $slack),
		'SELECT chatwebhook.dashboard()',
		'SELECT chatwebhook.metrics_text()',
		(map { "SELECT * FROM chatwebhook.$_" } qw(delivery dead_letter webhook_health metrics worker_status alert grantee)),
		(map { "SELECT chatwebhook.$_('app')" } qw(grant_admin grant_reader grant_app grant_app revoke_access)),
		"SELECT chatwebhook.secret('$all'), chatwebhook.public_key('$all')",
		"SELECT chatwebhook.rotate_secret('$all')",
		"SELECT chatwebhook.set_credential('$all', 'token', 'x')",
		'SELECT chatwebhook.rekey()',
		"SELECT chatwebhook.retry($delivery), chatwebhook.cancel($delivery)",
		"SELECT chatwebhook.resume('$all')",
		'SELECT chatwebhook.retry_dead()',
		"SELECT chatwebhook.replay('$all')",
		'SELECT chatwebhook.purge_dead_letters()',
		q{SELECT chatwebhook.erase_conversation('bot', 'c')},
		q{SELECT chatwebhook.emit('message.sent', 'x', NULL, '{"role": "bot", "content": "x"}')},
		q{SELECT chatwebhook.sign('x', 'whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw'), chatwebhook.verify('x', 'y', 'whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw')},
		q{SELECT chatwebhook.verify('{"webhook-id": "x", "webhook-timestamp": "1", "webhook-signature": "v1,x"}', 'x', 'whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw', '5 min')},
		q{SELECT chatwebhook.wait_until_idle('0')},
		'DELETE FROM chatwebhook.webhook')
	{
		my ($out, $err) = as_role(qq{"$owner"}, "$hostile $call");
		is(join(', ', grep { !/ as mallory in / } witnessed()), '', $call);
		unlike($err, qr/is not unique|invalid input syntax|evil2/, 'which does what it does elsewhere');
	}
	script(q{DROP TABLE public.chat; DELETE FROM chatwebhook.connector WHERE name = 'con'; DROP FUNCTION public.con});
	# in the extension's script, too
	script(q{CREATE DATABASE planted TEMPLATE template0 OWNER mallory});
	$node->command_ok(['bash', '-c', 'pg_dump --no-sync -n evil2 -d postgres | psql -X -q -d planted'], 'all that is in another database');
	sql_in('planted', "ALTER DATABASE planted SET search_path = evil2, public, pg_catalog");
	witnessed();
	sql_in('planted', 'SET search_path = evil2, public, pg_catalog; CREATE EXTENSION chatwebhook');
	is(join(', ', grep { !/ as mallory in / } witnessed()), '', 'CREATE EXTENSION');
	sql_in('planted', 'SET search_path = evil2, public, pg_catalog; DROP EXTENSION chatwebhook');
	is(join(', ', grep { !/ as mallory in / } witnessed()), '', 'DROP EXTENSION');
	sql('DROP DATABASE planted WITH (FORCE)');
};

subtest 'filters' => sub {
	is_refused('victim', q{INSERT INTO chatwebhook.webhook (name, url, filter) VALUES ('f', 'https://example.com/', '$.data.x like_regex "("')},
		qr/invalid regular expression/, 'one that cannot be compiled is refused as it is written');
	is_refused('victim', q{INSERT INTO chatwebhook.webhook (name, url, filter) VALUES ('f', 'https://example.com/', '$.data.x.evil.witness()')},
		qr/syntax error/, 'one that calls a function is none');
	is_refused('victim', q{INSERT INTO chatwebhook.webhook (name, url, filter) VALUES ('f', 'https://example.com/', '$.data.content like_regex "^((a+)*)*\\\\1\\\\1b$"')},
		qr/invalid filter .* back reference/, 'one with a regular expression that goes back and forth is refused');
	is_refused('victim', q{INSERT INTO chatwebhook.webhook (name, url, filter) VALUES ('f', 'https://example.com/', '$.**.**.**.**.**.**.**.** == 2')},
		qr/invalid filter .* more than one/, 'as one that branches at each step');
};

subtest 'a schema that somebody has prepared' => sub {
	sql('CREATE DATABASE prepared OWNER mallory');
	sql_in('prepared', q{
		SET ROLE mallory;
		CREATE SCHEMA chatwebhook;
		CREATE TABLE chatwebhook.event (id uuid);
		CREATE FUNCTION chatwebhook._check_preload() RETURNS void LANGUAGE sql AS 'SELECT 1'});
	foreach my $command ('CREATE EXTENSION chatwebhook', 'CREATE EXTENSION IF NOT EXISTS chatwebhook CASCADE')
	{
		my (undef, undef, $err) = $node->psql('prepared', $command);
		like($err, qr/schema "chatwebhook" already exists/, "$command is refused");
	}
	sql_in('prepared', 'DROP SCHEMA chatwebhook CASCADE; SET ROLE mallory; CREATE SCHEMA other');
	my (undef, undef, $err) = $node->psql('prepared', 'CREATE EXTENSION chatwebhook SCHEMA other');
	like($err, qr/must be installed in schema "pg_catalog"/, 'in a schema of somebody else\'s, too');
	(undef, undef, $err) = $node->psql('prepared', 'SET ROLE mallory; CREATE EXTENSION chatwebhook');
	like($err, qr/permission denied/, 'its owner cannot make it');
	sql('DROP DATABASE prepared');
};

subtest 'what only an owner may do to the tables' => sub {
	is_refused('mallory', $_->[0], $_->[1], $_->[0]) foreach (
		[ 'CREATE RULE r AS ON INSERT TO chatwebhook.queue DO ALSO SELECT evil.witness(\'rule\')', qr/must be owner/ ],
		[ 'CREATE RULE r AS ON DELETE TO chatwebhook.queue DO INSTEAD NOTHING', qr/must be owner/ ],
		[ 'CREATE POLICY p ON chatwebhook.queue USING (evil.checked(last_error))', qr/must be owner/ ],
		[ 'ALTER TABLE chatwebhook.event DISABLE ROW LEVEL SECURITY', qr/must be owner/ ],
		[ 'ALTER TABLE chatwebhook.queue ADD CHECK (evil.checked(last_error))', qr/must be owner/ ],
		[ 'ALTER TABLE chatwebhook.queue ALTER last_error SET DEFAULT \'\'', qr/must be owner/ ],
		[ 'CREATE INDEX ON chatwebhook.queue (evil.checked(last_error))', qr/must be owner/ ],
		[ 'CREATE STATISTICS chatwebhook.s ON (evil.checked(last_error)) FROM chatwebhook.queue', qr/must be owner|permission denied/ ],
		[ 'CREATE TABLE evil.child () INHERITS (chatwebhook.queue)', qr/must be owner/ ],
		[ 'CREATE OR REPLACE VIEW chatwebhook.delivery AS SELECT 1', qr/permission denied|must be owner/ ],
		[ 'ALTER FUNCTION chatwebhook._do_secret(uuid) SECURITY INVOKER', qr/must be owner/ ],
		[ 'ALTER FUNCTION chatwebhook.secret(uuid) SECURITY DEFINER', qr/must be owner/ ],
		[ 'CREATE FUNCTION chatwebhook._do_mine(uuid) RETURNS pg_catalog.text LANGUAGE sql AS \'SELECT NULL::pg_catalog.text\'', qr/permission denied/ ],
		[ 'CREATE FUNCTION evil.secret(uuid) RETURNS pg_catalog.text LANGUAGE c AS \'$libdir/chatwebhook\', \'chatwebhook_guarded\'', qr/permission denied/ ],
		[ 'ALTER POLICY monitor ON chatwebhook.event TO PUBLIC', qr/must be owner/ ],
		[ 'INSERT INTO chatwebhook.grantee VALUES (\'app\', \'admin\')', qr/permission denied/ ],
		[ 'CREATE FUNCTION chatwebhook._claimed(integer) RETURNS boolean LANGUAGE sql AS \'SELECT true\'', qr/permission denied/ ],
		[ 'CREATE CAST (uuid AS text) WITH FUNCTION evil.checked(text) AS IMPLICIT', qr/must be owner|does not exist/ ],
		[ 'CREATE EVENT TRIGGER e ON ddl_command_start EXECUTE FUNCTION evil.trigger()', qr/must be superuser|permission denied/i ],
		[ 'ALTER EXTENSION chatwebhook ADD FUNCTION evil.checked(text)', qr/must be owner/ ],
		[ 'DROP EXTENSION chatwebhook', qr/must be owner/ ],
		[ 'SECURITY LABEL ON TABLE chatwebhook.queue IS \'x\'', qr/no security label|must be owner/ ]);
};

subtest 'values that run code as they are rendered' => sub {
	my ($out, $err) = as_role('mallory', q{
		CREATE TYPE evil.mood AS ENUM ('glad', 'sad');
		CREATE FUNCTION evil.to_json(evil.mood) RETURNS json LANGUAGE plpgsql AS $$
			BEGIN PERFORM evil.witness('cast'); RETURN '"cast"'; END $$;
		CREATE CAST (evil.mood AS json) WITH FUNCTION evil.to_json(evil.mood) AS ASSIGNMENT;
		CREATE FUNCTION evil.domain(integer) RETURNS boolean LANGUAGE plpgsql AS $$
			BEGIN PERFORM evil.witness('domain'); RETURN true; END $$;
		CREATE DOMAIN evil.number AS integer CHECK (evil.domain(VALUE));
		CREATE TABLE public.bait (mood evil.mood, number evil.number, numbers evil.number[], moods evil.mood[]);
		GRANT INSERT ON public.bait TO app;
		SELECT chatwebhook.watch('public.bait', 'conversation.ended', '{"*": "*"}');
		CREATE TRIGGER s AFTER INSERT ON public.bait REFERENCING NEW TABLE AS n
			EXECUTE FUNCTION chatwebhook.emit('conversation.started', 'visitorId=number', 'pageUrl=mood', 'userAgent=moods')});
	is($err, '', 'a table with columns of such types is watched');
	witnessed();
	($out, $err) = as_role('app', q{INSERT INTO public.bait VALUES ('sad', 1, '{2,3}', '{glad}')});
	is($err, '', 'somebody inserts into it');
	ok(wait_idle($node), 'the worker is done');
	my @said = witnessed();
	is(join(', ', grep { !/ as app in client backend$/ } @said), '', 'what is planted has run as the one who inserts, and as nobody else');
	sql('DROP TABLE public.bait');
};

subtest 'settings of the database and of the worker\'s role' => sub {
	my %hostile = (
		session_replication_role => 'origin',
		check_function_bodies => 'off',
		row_security => 'on',
		default_transaction_read_only => 'on',
		default_transaction_isolation => 'serializable',
		default_transaction_deferrable => 'on',
		statement_timeout => '1',
		lock_timeout => '1',
		idle_in_transaction_session_timeout => '1',
		idle_session_timeout => '1',
		search_path => 'evil, public, pg_catalog',
		role => 'mallory',
		exit_on_error => 'on',
		bytea_output => 'escape',
		intervalstyle => 'iso_8601',
		datestyle => '"SQL, DMY"',
		timezone => '"Pacific/Kiritimati"',
		array_nulls => 'off',
		standard_conforming_strings => 'off',
		transform_null_equals => 'on',
		quote_all_identifiers => 'on',
		extra_float_digits => '-15',
		xmlbinary => 'hex',
		work_mem => '64',
		plan_cache_mode => 'force_custom_plan',
		force_parallel_mode => 'on',
		debug_parallel_query => 'on',
		enable_indexscan => 'off',
		client_encoding => 'latin1',
		client_min_messages => 'error',
		default_tablespace => "''",
		log_min_messages => 'warning');
	# some are not there in every version, and 19 takes no other value for strings
	delete $hostile{standard_conforming_strings} if sql('SHOW server_version_num') >= 190000;
	delete @hostile{ grep { sql("SELECT current_setting('$_', true) IS NULL") eq 't' } keys %hostile };
	my ($id) = create_webhook($node, name => 'settings', path => '/flaky/1', backoff => '10 ms');
	my $n = 0;
	# the worst by themselves, then all
	foreach my $set (
		(map { [$_] } qw(default_transaction_read_only role row_security search_path
			session_replication_role statement_timeout)),
		[ sort keys %hostile ])
	{
		my $what = @$set == 1 ? "$set->[0] = $hostile{$set->[0]}" : 'all of them';
		foreach my $whose ('DATABASE postgres', "ROLE \"$owner\" IN DATABASE postgres")
		{
			script(join '; ', map { "ALTER $whose SET $_ = $hostile{$_}" } @$set);
		}
		end_sessions();
		my $pid = sql('SELECT pid FROM chatwebhook.worker_status');
		sql("SELECT pg_terminate_backend($pid)");
		sql("SELECT chatwebhook.emit('message.sent', 'bot', NULL, '{\"role\": \"bot\", \"content\": \"x\"}')");
		$n++;
		becomes_true("SELECT count(*) = $n FROM chatwebhook.history WHERE webhook_id = '$id' AND attempts = 2 AND status = 'delivered'",
			"the worker delivers under $what");
		script("ALTER DATABASE postgres RESET ALL; ALTER ROLE \"$owner\" IN DATABASE postgres RESET ALL");
		end_sessions();
	}
	runs_only_as([], 'nothing that was planted has run');
};

subtest 'what a restore may store is judged again before it is sent' => sub {
	sql('DELETE FROM chatwebhook.webhook');
	my ($id) = create_webhook($node, name => 'inwards', max_retries => 0);
	my $inwards = "UPDATE chatwebhook.webhook SET url = 'http://169.254.169.254/latest/meta-data/' WHERE id = '$id'";
	my $unsigned = "INSERT INTO chatwebhook.webhook (name, url) VALUES ('unsigned', '" . $receiver->url('/ok/-/unsigned') . "')";
	is_refused('victim', "SET check_function_bodies = off; $inwards", qr/cannot deliver to the URL/,
		'only a superuser can pretend to be a restore');
	script("SET check_function_bodies = off; $inwards; $unsigned");
	is(sql("SELECT url FROM chatwebhook.webhook WHERE id = '$id'"), 'http://169.254.169.254/latest/meta-data/', 'which stores any URL');
	sql(q{SELECT chatwebhook.emit('message.sent', 'bot', NULL, '{"role": "bot", "content": "x"}')});
	becomes_true("SELECT count(*) = 1 FROM chatwebhook.dead WHERE webhook_id = '$id'", 'its delivery is given up');
	like(sql("SELECT last_status_code IS NULL, last_error FROM chatwebhook.dead WHERE webhook_id = '$id'"),
		qr/^t\|.*(link-local|address|metadata)/i, 'without a request, and the reason says why');
	is($receiver->count('unsigned'), 0, 'a webhook without a secret gets nothing');
	is(sql(q{SELECT count(*) FROM chatwebhook.queue q JOIN chatwebhook.webhook w ON w.id = q.webhook_id WHERE w.name = 'unsigned'}),
		1, 'what it is owed waits');
};

$node->stop;
done_testing();
