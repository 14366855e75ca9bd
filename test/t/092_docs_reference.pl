# The reference, docs/reference.md, agrees with the extension.
#
# Only a database that has the extension can show that the page is up to date, that
# every object that users meet has a description, and that none is left out.

use strict;
use warnings;

use FindBin;
use lib "$FindBin::Bin/../lib";

use Chatwebhook;
use IPC::Run;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;

my $root = "$FindBin::Bin/../..";
my $page = slurp_file("$root/docs/reference.md");
my $node = new_node('main');

#
# The page is what the script prints
#
{
	local $ENV{PGHOST} = $node->host;
	local $ENV{PGPORT} = $node->port;
	local $ENV{PGDATABASE} = 'postgres';
	my ($output, $errors) = ('', '');

	ok(IPC::Run::run([ "$root/scripts/reference" ], '>' => \$output, '2>' => \$errors),
		'scripts/reference prints a page');
	is($errors, '', 'without complaint');
	is($output, $page, 'docs/reference.md is that page')
	  or diag("run scripts/reference >docs/reference.md in a database that has the extension");
}

#
# What people see has a description.  A table that says to read another has one
# for itself only.
#
my $seen = q{
	SELECT c.oid, c.relname, c.relkind, obj_description(c.oid, 'pg_class') AS text
	  FROM pg_class c
	 WHERE c.relnamespace = 'chatwebhook'::regnamespace AND c.relkind IN ('r', 'p', 'v', 'm', 'f', 'c')
};
is( sql(qq{SELECT string_agg(relname, ' ') FROM ($seen) s WHERE relkind <> 'c' AND text IS NULL}),
	'', 'tables and views');
is( sql(qq{
		SELECT string_agg(relname || '.' || attname, ' ' ORDER BY 1)
		  FROM ($seen) s JOIN pg_attribute a ON a.attrelid = s.oid
		 WHERE attnum > 0 AND NOT attisdropped AND col_description(s.oid, attnum) IS NULL
		   AND coalesce(text, '') !~ 'Read the views? .* instead[.]\$'}),
	'', 'columns');
is( sql(q{
		SELECT string_agg(oid::regprocedure::text, ' ') FROM pg_proc
		 WHERE pronamespace = 'chatwebhook'::regnamespace
		   AND coalesce(obj_description(oid, 'pg_proc'), '') = ''}),
	'', 'functions');
is( sql(q{
		SELECT string_agg(typname, ' ') FROM pg_type t
		 WHERE typnamespace = 'chatwebhook'::regnamespace AND typelem = 0
		   AND NOT EXISTS (SELECT FROM pg_class c WHERE c.oid = t.typrelid AND c.relkind <> 'c')
		   AND obj_description(oid, 'pg_type') IS NULL}),
	'', 'types');
is( sql(q{
		SELECT string_agg(name, ' ') FROM pg_settings
		 WHERE name LIKE 'chatwebhook.%' AND coalesce(short_desc, '') = ''}),
	'', 'settings');

#
# All of it is on the page
#
foreach my $what (
	[ 25, 'function', q{- `%s(}, q{
		SELECT DISTINCT proname FROM pg_proc
		 WHERE pronamespace = 'chatwebhook'::regnamespace AND proname !~ '^_'} ],
	[ 10, 'table or view with its columns', "\n### %s\n", qq{
		SELECT relname FROM ($seen) s WHERE relname !~ '^_' AND text !~ ' instead( of this table)?[.]\$'} ],
	[ 4, 'table within', q{- `%s`: }, qq{
		SELECT relname FROM ($seen) s WHERE relname !~ '^_' AND text ~ ' instead( of this table)?[.]\$'} ],
	[ 80, 'column', q{- `%s` }, qq{
		SELECT DISTINCT attname FROM ($seen) s JOIN pg_attribute a ON a.attrelid = s.oid
		 WHERE attnum > 0 AND NOT attisdropped AND relname !~ '^_'
		   AND coalesce(text, '') !~ ' instead( of this table)?[.]\$'} ],
	[ 10, 'event type', q{- `%s`}, 'SELECT name FROM chatwebhook.event_type' ],
	[ 7, 'connector', q{- `%s`: }, 'SELECT name FROM chatwebhook.connector' ],
	[ 25, 'setting', q{- `%s` (}, q{SELECT name FROM pg_settings WHERE name LIKE 'chatwebhook.%'} ])
{
	my ($least, $kind, $form, $query) = @$what;
	my @names = split /\n/, sql($query);
	my @missing = grep { index($page, sprintf $form, $_) < 0 } @names;

	cmp_ok(@names, '>=', $least, "there are those of kind $kind");
	is("@missing", '', "each $kind is there");
}

$node->stop('fast');
done_testing();
