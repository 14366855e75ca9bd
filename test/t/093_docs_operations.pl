# The operators' page, docs/operations.md.
#
# Only running its statements can show that it is still true: every block of SQL is
# run, those that change something too, in a cluster with trouble of most kinds, and
# gives the columns that the page shows; and every view column, function, state,
# kind of alert and log line is named.

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
my $page = slurp_file("$root/docs/operations.md");
my $receiver = start_receiver();
my $node = new_node(
	'main',
	'chatwebhook.alert_failures' => 5,
	'chatwebhook.alert_success_rate' => 0.9,
	'chatwebhook.alert_backlog' => '5min');

# Whether the page has this as a word in code, in a block or within a line.
sub names
{
	my ($word) = @_;
	return $page =~ /`[^`\n]*(?<![\w.])(?:chatwebhook\.)?\Q$word\E(?!\w)[^`\n]*`/;
}

# The first line of every result in psql's output: the names of its columns.
sub headings
{
	my ($output) = @_;
	return $output =~ /^(.+)\n-+(?:\+-+)*$/mg;
}

# The same, however wide the columns are.
sub columns
{
	return join "\n", map { join ' | ', map { s/^\s+|\s+$//gr } split /\|/ } @_;
}

#
# The scene: one webhook in good order, one down, one that refuses, one gone,
# and one that nothing was sent to.
#
create_webhook($node, name => 'crm', events => ['lead.*']);
create_webhook($node,
	name => 'erp',
	path => '/status/503',
	events => ['lead.captured'],
	max_retries => 0);
create_webhook($node,
	name => 'mailer',
	path => '/status/422',
	events => ['lead.captured']);
create_webhook($node,
	name => 'old crm',
	path => '/gone',
	events => ['lead.captured']);
create_webhook($node,
	name => 'desk',
	path => '/flaky/1',
	events => ['handoff.requested'],
	backoff => '1 hour',
	max_backoff => '1 hour');
create_webhook($node, name => 'archive', events => ['conversation.ended']);
script(q{
	SELECT count(chatwebhook.emit('lead.captured', 'shop', 'c-' || n,
		'{"email": "ann@example.com", "source": "chat", "conversationSummary": ""}'))
	  FROM generate_series(9, 18) AS n;
	SELECT chatwebhook.emit('handoff.requested', 'shop', 'c-18',
		'{"reason": "refund"}');
});
becomes_true(q{
		SELECT (SELECT count(*) = 3 FROM chatwebhook.alert WHERE closed_at IS NULL)
		   AND (SELECT count(*) = 10 FROM chatwebhook.dead_letter
		         WHERE webhook_name = 'erp')
		   AND (SELECT count(*) = 10 FROM chatwebhook.delivery
		         WHERE webhook_name = 'crm' AND status = 'delivered')
		   AND (SELECT count(*) = 1 FROM chatwebhook.delivery
		         WHERE webhook_name = 'desk' AND attempts = 1)},
	'there is trouble to look at');
# yesterday's
sql(q{UPDATE chatwebhook.dead SET created_at = created_at - interval '1 day'});

#
# Every block of SQL
#
my $blocks = 0;
my %results;
while ($page =~ /^```sql\n(.*?)^```\n(?:```\n(.*?)^```\n)?/msg)
{
	my ($sql, $shown) = ($1, $2);
	my ($title) = $sql =~ /^(.{1,60})/;
	my ($stdout, $stderr) = ('', '');
	my $ok = IPC::Run::run(
		[
			'psql', '-X', '-q',
			'-v' => 'ON_ERROR_STOP=1',
			'-f' => '-',
			'--dbname' => $node->connstr('postgres')
		],
		'<' => \$sql,
		'>' => \$stdout,
		'2>' => \$stderr);

	$blocks++;
	ok($ok, "it runs: $title");
	is($stderr, '', 'without complaint');
	next if !defined $shown;
	is( columns(headings($stdout)), columns(headings($shown)),
		'it gives the columns that the page shows');
	$results{$title} = $stdout;
}
cmp_ok($blocks, '>=', 15, 'there are blocks');
is( scalar(() = $page =~ /^```sql$/mg), $blocks, 'all of them');
unlike($results{$_}, qr/^\(0 rows\)$/m, "not empty here: $_")
  foreach grep { !/SELECT d\.id/ } sort keys %results;

# What those that change something have done
is(sql('SHOW chatwebhook.enabled'), 'on', 'sending is on again');
becomes_true(q{
		SELECT count(*) > 0 FROM chatwebhook.attempt a
		  JOIN chatwebhook.webhook w ON w.id = a.webhook_id
		 WHERE w.name = 'erp' AND a.attempt = 2},
	'what failed yesterday is sent again');
is( sql(q{SELECT count(*) FROM chatwebhook.delivery
		WHERE webhook_name = 'old crm' AND status = 'pending'}),
	0, 'what waited for a webhook that is gone is canceled');
is( sql(q{SELECT count(*) FROM chatwebhook.vault
		WHERE name = 'previous_signing_secret'}),
	1, 'a secret has an overlap');

#
# Everything is named
#
foreach my $column (
	split /\n/, sql(q{
		SELECT c.relname || '.' || a.attname
		  FROM pg_class c JOIN pg_attribute a ON a.attrelid = c.oid
		 WHERE c.relnamespace = 'chatwebhook'::regnamespace AND c.relkind = 'v'
		   AND c.relname !~ '^_' AND a.attnum > 0 ORDER BY 1}))
{
	my ($view, $name) = split /\./, $column;
	my ($part) = $page =~ /\n\n(`$view`, .*?)(?=\n\n`\w+`, |\n## )/s;
	like($part // '', qr/`$name`/, "column $column");
}
ok(names($_), "function $_")
  foreach split /\n/, sql(q{
	SELECT DISTINCT proname FROM pg_proc
	 WHERE pronamespace = 'chatwebhook'::regnamespace AND proname !~ '^_' ORDER BY 1});

# The comments of these two columns list what they can hold.
foreach my $column ([ 'webhook_health', 'state' ], [ 'alert', 'kind' ])
{
	my ($relation, $name) = @$column;
	my $comment = sql(qq{
		SELECT col_description(attrelid, attnum) FROM pg_attribute
		 WHERE attrelid = 'chatwebhook.$relation'::regclass AND attname = '$name'});
	my @values = $comment =~ /(?:^|[;.] )(\w+)(?=[:;.])/g;

	cmp_ok(@values, '>=', 4, "the comment on $relation.$name lists values");
	like($page, qr/^\| `$_` \|/m, "$relation.$name $_") foreach @values;
}

# What goes to the log without being asked for
foreach my $file (glob("$root/src/*.c"), glob("$root/sql/*.sql"))
{
	my $source = slurp_file($file);
	foreach my $message (
		$source =~ /ereport\((?:LOG|WARNING),\s*\(errmsg\("((?:[^"\\]|\\.)*)"/g,
		$source =~ /RAISE (?:LOG|WARNING) '([^']*)'/g)
	{
		my $pattern = join '.+?',
		  map { quotemeta } split /\\?"%s?\\?"|%(?:\.\d+)?[sdf]?/, $message, -1;
		like($page, qr/`[^`\n]*$pattern[^`\n]*`/, "log line: $message");
	}
}

# The page's own links lead somewhere.
my %anchors =
  map { (lc s/[^\w -]//gr =~ s/ /-/gr) => 1 } $page =~ /^#+ (.*)$/mg;
ok($anchors{$_}, "anchor #$_") foreach $page =~ /\]\(#([^)]*)\)/g;
ok(-e "$root/docs/$_", "link $_") foreach $page =~ /\]\(([^)#]+)/g;

cmp_ok(scalar(() = $page =~ /\n/g), '<', 450, 'it is of a length to be read');

$node->stop('fast');
done_testing();
