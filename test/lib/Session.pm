
=head1 NAME

Session - statements without a psql for each

=head1 SYNOPSIS

  use Session;
  my $answer = Session::ask($node, 'postgres', 'SELECT 1');
  my $true = Session::poll($node, 'postgres', 'SELECT count(*) = 1 FROM t', 't');

=head1 DESCRIPTION

To start psql, and a process of the server for it, takes longer than most of what
the tests have them do, and they do so thousands of times.  Here the test speaks
to the server itself, with PostgreSQL's protocol, on its Unix socket.

All else is as if it were psql: the environment says whose a session is and how it
is set up; statements are sent one by one; an answer has the form of C<psql -At>.
As there, a call has a session of its own, which is gone afterwards, unless all
that it does is a single SELECT, INSERT, UPDATE or DELETE that has nothing to do
with sessions or settings.  Such calls share one, which ends as soon as there is
anything else to do with that server: a statement of another kind, another
database, psql, a reload, a stop.  poll() asks in one session, whatever it asks.

What only psql can do is left to it: its own commands and variables, COPY, and
whatever is not plainly a list of statements.  So are servers that cannot be
spoken to in this way, for instance since they want a password, and sessions in
which a backslash means something in a plain string.

=cut

package Session;

use strict;
use warnings;

use IO::Select;
use IO::Socket::UNIX;
use PostgreSQL::Test::Utils;
use Test::More;
use Time::HiRes qw(sleep time);

# What libpq takes from the environment for the server.
my %parameters = (
	PGAPPNAME => 'application_name',
	PGCLIENTENCODING => 'client_encoding',
	PGDATESTYLE => 'datestyle',
	PGGEQO => 'geqo',
	PGOPTIONS => 'options',
	PGTZ => 'timezone');

# The sessions that are shared, by the sockets of their servers.
my %shared;

# What a session may remember, or be seen by.
my $private = qr/pg_(?!sleep\b|total_relation_size\b|class\b|wal_)|set_config|current_setting|\btemp|session/i;

=head1 FUNCTIONS

=over

=item ask($node, $dbname, $sql)

What SQL returns; dies, with what psql would say, if there is an error.  Gives
undef, and has done nothing, if that is a task for psql.

=cut

sub ask
{
	my ($node, $dbname, $sql) = @_;
	my $statements = _statements($sql) or return;
	my ($self, $shared) = _session($node, $dbname, $statements);
	return if !$self;
	my $output = '';

	foreach my $statement (@$statements)
	{
		my $answer = $self->_query($statement);
		if (defined $answer->{error})
		{
			$shared ? forget($node) : $self->_close;
			die "error running SQL: '$answer->{error}'\nwith sql '$sql'";
		}
		print $answer->{notices};
		$output .= $answer->{rows};
	}
	$self->_close if !$shared;
	chomp $output;
	return $output;
}

=item poll($node, $dbname, $query, $expected)

Whether a query comes to give what is expected, in the time that the tests have
for that.  Undef if that is a task for psql.

=cut

sub poll
{
	my ($node, $dbname, $query, $expected) = @_;
	my $statements = _statements($query);
	return if !$statements || @$statements != 1;
	my $deadline = time + $PostgreSQL::Test::Utils::timeout_default;
	my $pause = 0.01;
	my ($self, $shared, $answer);

	while (1)
	{
		($self, $shared) = _session($node, $dbname, $statements) if !$self;
		return if defined $self && !$self;
		$answer = $self ? $self->_query($statements->[0]) : { error => 'there is no connection' };
		last if !defined $answer->{error} && $answer->{rows} eq "$expected\n" && $answer->{notices} eq '';
		if (time > $deadline)
		{
			diag("timed out executing this query:\n$query\nexpecting this output:\n$expected\n"
				  . "last actual query output:\n$answer->{rows}with stderr:\n"
				  . $answer->{notices}
				  . ($answer->{error} // ''));
			last;
		}
		if (defined $answer->{error} && $self)
		{
			$shared ? forget($node) : $self->_close;
			undef $self;
		}
		sleep $pause;
		$pause = 0.1 if ($pause *= 1.5) > 0.1;
	}
	$self->_close if $self && !$shared;
	return !defined $answer->{error} && $answer->{rows} eq "$expected\n";
}

=item forget($node)

Ends the session that calls share.

=back

=cut

sub forget
{
	my ($node) = @_;
	my $session = delete $shared{ _path($node) };
	$session->_close if $session;
	return;
}

sub _path
{
	my ($node) = @_;
	return $node->host . '/.s.PGSQL.' . $node->port;
}

# A session for these statements, and whether it is shared; or what _connect()
# gives otherwise.
sub _session
{
	my ($node, $dbname, $statements) = @_;
	my $path = _path($node);
	my $shared = @$statements == 1
	  && $statements->[0] =~ /^\s*(?:select|insert|update|delete)\b/i
	  && $statements->[0] !~ $private;
	my $like = join "\0", $$, $dbname, map { $ENV{$_} // '' } 'PGUSER', sort keys %parameters;

	forget($node)
	  if $shared{$path} && (!$shared || $shared{$path}{like} ne $like || $shared{$path}->_is_over);
	return ($shared{$path}, 1) if $shared{$path};

	my $self = _connect($path, $dbname);
	if ($self && $shared)
	{
		$self->{like} = $like;
		$shared{$path} = $self;
	}
	return ($self, $shared);
}

# The statements of a text as psql would send them; none if that would not be
# all that it does.
sub _statements
{
	my ($sql) = @_;
	my ($depth, $start) = (0, 0);
	my @statements;

	return if !defined $sql || !utf8::downgrade($sql, 1) || $sql =~ /\0/;
	pos($sql) = 0;
	while (pos $sql < length $sql)
	{
		if ($sql =~ /\G(?:\s+|--[^\n]*)/gc)
		{
			# nothing to send, if there is nothing else
			$start = pos $sql if substr($sql, $start, pos($sql) - $start) !~ /\S/;
		}
		elsif ($sql =~ /\GE'(?:[^'\\]++|\\.|'')*+'/gcis) { }
		elsif ($sql =~ /\G([a-z_\x80-\xff][\w\$\x80-\xff]*)/gcia)
		{
			return if $1 =~ /^(?:atomic|copy|listen)$/i;
		}
		elsif ($sql =~ /\G(?:'[^']*'|"[^"]*"|(\$(?:[a-z_\x80-\xff][\w\x80-\xff]*)?\$).*?\g1)/gcisa) { }
		elsif ($sql =~ /\G;/gc)
		{
			next if $depth;
			push @statements, substr $sql, $start, pos($sql) - 1 - $start;
			$start = pos $sql;
		}
		elsif ($sql =~ /\G(?:::|:=)/gc) { }
		elsif ($sql =~ m{\G(?:['"\\]|/\*|:[\w'"\{])}gca) { return; }
		elsif ($sql =~ /\G(.)/gcs)
		{
			$depth++ if $1 eq '(';
			$depth-- if $1 eq ')' && $depth;
		}
	}
	push @statements, substr $sql, $start;
	return [ grep { /\S/ } @statements ];
}

# A new session; undef if there is none to be had at the moment, 0 if only psql
# can have it.
sub _connect
{
	my ($path, $dbname) = @_;
	my $user = $ENV{PGUSER} || getpwuid $>;
	return 0 if $path !~ m{^/} || grep { defined $ENV{$_} } qw(PGSERVICE PGSSLMODE);
	my $socket = IO::Socket::UNIX->new(Peer => $path) or return;
	my $self = bless { socket => $socket, read => '', owner => $$ };
	my %startup = (
		user => $user,
		database => $dbname,
		application_name => 'psql',
		map { $parameters{$_} => $ENV{$_} } grep { ($ENV{$_} // '') ne '' } keys %parameters);

	my $message = pack('N', 196608) . join('', map { "$_\0" } %startup) . "\0";
	$self->_send(pack('N', 4 + length $message) . $message);
	my $answer = $self->_answer;
	return $answer->{password} ? 0 : undef if defined $answer->{error};

	# what the statements are told from one another by
	if ($self->{standard_conforming_strings} ne 'on')
	{
		$self->_close;
		return 0;
	}
	return $self;
}

sub _close
{
	my ($self) = @_;
	$self->_send(pack('aN', 'X', 4)) if $self->{owner} == $$;
	close $self->{socket};
	return;
}

# Whether the server has something to say without being asked: that it ends.
sub _is_over
{
	my ($self) = @_;
	return IO::Select->new($self->{socket})->can_read(0);
}

sub _query
{
	my ($self, $sql) = @_;
	$self->_send(pack('aNZ*', 'Q', 5 + length $sql, $sql));
	return $self->_answer;
}

sub _send
{
	my ($self, $message) = @_;
	local $SIG{PIPE} = 'IGNORE';

	while (length $message)
	{
		my $sent = syswrite $self->{socket}, $message;
		next if !defined $sent && $!{EINTR};
		# whoever reads the answer learns that there is none
		return if !$sent;
		substr $message, 0, $sent, '';
	}
	return;
}

# The next message: its type and what it says.  Nothing if there is no server
# any more.
sub _message
{
	my ($self) = @_;

	while (1)
	{
		if (length $self->{read} >= 5)
		{
			my ($type, $length) = unpack 'aN', $self->{read};
			if (length $self->{read} > $length)
			{
				my $message = substr $self->{read}, 0, $length + 1, '';
				return ($type, substr $message, 5);
			}
		}
		my $got = sysread $self->{socket}, $self->{read}, 65536, length $self->{read};
		next if !defined $got && $!{EINTR};
		return if !$got;
	}
}

# What the server says until it is ready: rows, notices, error.
sub _answer
{
	my ($self) = @_;
	my %answer = (rows => '', notices => '');

	while (my ($type, $said) = $self->_message)
	{
		if ($type eq 'D')
		{
			my $at = 2;
			my @columns = map {
				my $length = unpack 'N', substr $said, $at, 4;
				$at += 4;
				$length = 0 if $length == 0xffffffff;
				$at += $length;
				substr $said, $at - $length, $length;
			} 1 .. unpack 'n', $said;
			$answer{rows} .= join('|', @columns) . "\n";
		}
		elsif ($type eq 'N')
		{
			$answer{notices} .= _in_words($said);
		}
		elsif ($type eq 'E')
		{
			$answer{error} //= _in_words($said);
		}
		elsif ($type eq 'S')
		{
			my ($name, $value) = unpack 'Z*Z*', $said;
			$self->{$name} = $value if $name eq 'standard_conforming_strings';
		}
		elsif ($type eq 'R' && unpack('N', $said) != 0)
		{
			return { error => 'a password is wanted', password => 1 };
		}
		elsif ($type eq 'Z')
		{
			return \%answer;
		}
	}
	$answer{error} //= 'server closed the connection unexpectedly';
	return \%answer;
}

# A notice or an error as psql would print it.
sub _in_words
{
	my ($said) = @_;
	my %field = map { /^(.)(.*)/s ? ($1 => $2) : () } split /\0/, $said;
	my $words = "$field{S}:  $field{M}\n";

	$words .= "DETAIL:  $field{D}\n" if defined $field{D};
	$words .= "HINT:  $field{H}\n" if defined $field{H};
	$words .= "CONTEXT:  $field{W}\n" if defined $field{W} && $field{S} !~ /^(?:NOTICE|INFO|WARNING)$/;
	return $words;
}

1;
