# The other pages of docs/, the README, and all links.
#
# Only running them can show that the statements on the pages work: the blocks of
# SQL are run, page by page, in a database of their own, in the order in which they
# stand; where output is shown, theirs is the same.  Links lead somewhere, and so do
# their anchors.  The connectors' page agrees with the table on replies.  META.json
# is checked here, too.

use strict;
use warnings;

use FindBin;
use lib "$FindBin::Bin/../lib";

use Chatwebhook;
use File::Basename qw(dirname);
use IPC::Run;
use JSON::PP ();
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;

my $root = "$FindBin::Bin/../..";
# Sending is off: nothing here is to leave the machine.
my $node = new_node('main', 'chatwebhook.enabled' => 'off');

# A page's blocks of SQL run in a database where this has been done before.
my %pages = (
	'README.md' => q{
		CREATE TABLE conversation (id text PRIMARY KEY, chatbot_id text, started_at timestamptz, ended_at timestamptz);
		CREATE TABLE message (conversation_id text, role text, content text);
		CREATE TABLE feedback (rating int, comment text);
		CREATE TABLE handoff (reason text, chatbot_id text);},
	'SECURITY.md' => '',
	'docs/concepts.md' => '',
	'docs/containers.md' => '',
	'docs/connectors.md' => '',
	'docs/migrating.md' => q{
		CREATE TABLE orders (id int PRIMARY KEY, bot text, conversation text, status text, total numeric);},
	'docs/internals.md' => '',
	'docs/monitoring.md' => '',
	'docs/performance.md' => '');

sub run_sql
{
	my ($database, $sql) = @_;
	my ($output, $errors) = ('', '');

	IPC::Run::run(
		[ 'psql', '-X', '-q', '-v' => 'ON_ERROR_STOP=1', '-f' => '-',
			'-d' => $node->connstr($database) ],
		'<' => \$sql, '>' => \$output, '2>' => \$errors);
	return ($output, $errors);
}

sub trimmed
{
	my ($text) = @_;
	$text =~ s/[ \t]+$//mg;
	return $text =~ s/\s+\z//r;
}

foreach my $page (sort keys %pages)
{
	my $text = slurp_file("$root/$page");
	my ($database) = lc($page) =~ m{(\w+)\.md};
	my $blocks = 0;

	$node->safe_psql('postgres', "CREATE DATABASE $database");
	$node->safe_psql($database, 'CREATE EXTENSION chatwebhook')
	  if $text !~ /CREATE EXTENSION chatwebhook;/;
	$node->safe_psql($database, $pages{$page});
	while ($text =~ /^( *)```sql\n(.*?)^\1```\n(?:\1```\n(.*?)^\1```\n)?/msg)
	{
		my ($sql, $shown) = ($2, $3);
		my ($title) = $sql =~ /^(.{1,60})/;

		$blocks++;
		# something is left to be filled in
		next if $sql =~ /\x{e2}\x{80}\x{a6}|\$1/;
		my ($output, $errors) = run_sql($database, $sql);

		is($errors, '', "$page: it runs: $title");
		# the README's outputs have ids and secrets
		is(trimmed($output), trimmed($shown), 'and gives what is shown')
		  if defined $shown && $page ne 'README.md';
	}
	is($blocks, scalar(() = $text =~ /^ *```sql$/mg), "$page: all blocks of SQL were run");
}

#
# Links
#
sub anchors
{
	my ($text) = @_;
	$text =~ s/^ *```.*?^ *```$//msg;
	return map { (lc s/[^\w -]//gr =~ s/ /-/gr) => 1 } map { s/`//gr } $text =~ /^#+ (.*)$/mg;
}

foreach my $file (map { glob "$root/$_" } qw(*.md docs/*.md examples/*.md examples/*/*.md bench/*.md))
{
	my $text = slurp_file($file);
	my ($name) = $file =~ m{\Q$root\E/(.*)};
	my @broken;

	$text =~ s/^ *```.*?^ *```$//msg;
	$text =~ s/`[^`\n]*`/`code`/g;
	foreach my $link ($text =~ /\]\(([^)\s]+)\)/g)
	{
		next if $link =~ /^[a-z]+:/;
		my ($path, $anchor) = split /#/, $link, 2;
		my $target = $path eq '' ? $file : dirname($file) . "/$path";

		push @broken, $link
		  if !-e $target || defined $anchor && !{ anchors(slurp_file($target)) }->{$anchor};
	}
	is("@broken", '', "$name: its links lead somewhere");
	ok($text !~ /[ \t]$/m, "$name: no blanks at the ends of lines");
}

# Every page of docs/ is linked from the README.
my $readme = slurp_file("$root/README.md");
foreach my $file (glob "$root/docs/*.md")
{
	my ($name) = $file =~ m{\Q$root\E/(docs/.*)};
	ok($readme =~ /\]\(\Q$name\E\)/, "README.md links $name");
}

#
# Connectors
#
my $connectors = slurp_file("$root/docs/connectors.md");
my $rules = JSON::PP->new->decode($node->safe_psql('postgres',
	'SELECT json_object_agg(name, replies) FROM chatwebhook.connector'));
foreach my $name (sort keys %$rules)
{
	my ($section) = $connectors =~ /^(## \Q$name\E\b.*?)(?=^## )/msi;
	ok(defined $section, "there is a section on $name") or next;
	like($section, qr/connector => '$name'/, 'with its SQL') if $name ne 'webhook';
	foreach my $rule (@{ $rules->{$name} })
	{
		my @statuses = ref $rule->{status} ? @{ $rule->{status} } : $rule->{status};
		# what everybody expects of these need not be said
		my @missing = grep { !/^(?:5|20[0-4])/ && $section !~ /\b$_\b/ } @statuses;
		is("@missing", '', "and what it makes of @statuses[0 .. ($#statuses > 1 ? 1 : $#statuses)]");
	}
}

# The address of a service is shown, the secrets in its URL are not.
is( $node->safe_psql('postgres', q{
		SELECT chatwebhook._redact('https://a-long-name.example.com/services/0123456789abcdef/b?token=1')}),
	'https://a-long-name.example.com/services/.../b?...',
	'what is shown of a URL');

#
# META.json, as version 1.0.0 of PGXN's Meta Spec asks for
#
my $meta = JSON::PP->new->decode(slurp_file("$root/META.json"));
my ($version) = slurp_file("$root/chatwebhook.control") =~ /^default_version *= *'(.*)'/m;
my $semantic = qr/^\d+\.\d+\.\d+$/;
foreach my $key (qw(name abstract maintainer license version))
{
	ok(($meta->{$key} // '') =~ /\S/, "META.json has its $key");
}
like($meta->{license}, qr/^(?:postgresql|mit|bsd)$/, 'a license that the specification knows');
like($meta->{version}, $semantic, 'a semantic version');
is($meta->{version}, $version, "... which is chatwebhook.control's");
my %first = (
	'CHANGELOG.md' => qr/^## (\S+)/m,
	'debian/changelog' => qr/^chatwebhook \((\S+)-\d+\)/,
	'packaging/chatwebhook.spec' => qr/^Version: *(\S+)$/m);
foreach my $file (sort keys %first)
{
	is((slurp_file("$root/$file") =~ $first{$file})[0], $meta->{version}, "... which is ${file}'s");
}
is($meta->{'meta-spec'}{version}, '1.0.0', 'the version of the specification');
my %provides = %{ $meta->{provides} };
is(join(' ', keys %provides), 'chatwebhook', 'it provides the extension');
is($provides{chatwebhook}{version}, $meta->{version}, '... in that version');
foreach my $key (qw(file docfile))
{
	ok(-f "$root/$provides{chatwebhook}{$key}", "... whose $key is there");
}
foreach my $phase (values %{ $meta->{prereqs} })
{
	like($phase->{$_}{PostgreSQL}, $semantic, "what it $_") foreach keys %$phase;
}
is(scalar(grep { length($_) < 2 || length($_) > 255 || m{[/\\[:cntrl:]]} } @{ $meta->{tags} }), 0, 'tags that can be tags');

$node->stop('fast');
done_testing();
