
=head1 NAME

Session - a session with a server, without a psql

=head1 SYNOPSIS

  use Session;
  my $session = Session->new($node, 'postgres') or die $Session::error;
  my $answer = $session->query('SELECT 1');
  print $answer->{rows};
  $session->close;

=head1 DESCRIPTION

To start psql, and a server process for it, takes longer than most of the
statements that the tests run, and they run thousands of them.  Here the test
itself speaks PostgreSQL's protocol, on the server's Unix socket.

A session begins with new() and ends with close(): whoever calls these says
which statements share one.  As with psql, the environment (PGUSER, PGOPTIONS,
...) says whose the session is and how it is set up.  A server that asks for a
password is for psql.

=cut

package Session;

use strict;
use warnings;

use IO::Select;
use IO::Socket::UNIX;

# Why new() has failed.
our $error;

# What libpq takes from the environment for the server.
my %parameters = (
	PGAPPNAME => 'application_name',
	PGCLIENTENCODING => 'client_encoding',
	PGDATESTYLE => 'datestyle',
	PGGEQO => 'geqo',
	PGOPTIONS => 'options',
	PGTZ => 'timezone');

=head1 FUNCTIONS

=over

=item Session->new($node, $dbname)

A new session; undef if the server does not take it, with the reason in
$Session::error.

=cut

sub new
{
	my ($class, $node, $dbname) = @_;
	my $socket = IO::Socket::UNIX->new(Peer => $node->host . '/.s.PGSQL.' . $node->port);

	if (!$socket)
	{
		$error = "could not connect to the server: $!";
		return;
	}
	my $self = bless { socket => $socket, read => '', owner => $$ }, $class;
	my %startup = (
		user => $ENV{PGUSER} || scalar getpwuid $>,
		database => $dbname,
		application_name => 'psql',
		map { $parameters{$_} => $ENV{$_} } grep { ($ENV{$_} // '') ne '' } keys %parameters);
	my $message = pack('N', 196608) . join('', map { "$_\0" } %startup) . "\0";

	$self->_send(pack('N', 4 + length $message) . $message);
	my $answer = $self->_answer;
	$error = $answer->{error};
	return defined $error ? undef : $self;
}

=item identity()

What in the environment makes one session different from another, as a string.

=cut

sub identity
{
	return join "\0", map { $ENV{$_} // '' } 'PGUSER', sort keys %parameters;
}

=item query($sql)

Sends the text as it is, and returns a hash: C<rows> as C<psql -At> shows them,
C<notices>, C<error> (undef without one) with its C<sqlstate>, C<tags>, the command tag of each
statement that was done, and C<in_transaction>, whether a transaction block is
open now.  Several statements in one text are one transaction, as they are for
the server.

=cut

sub query
{
	my ($self, $sql) = @_;

	$self->begin($sql);
	return $self->_answer;
}

=item begin($sql), end()

The same in two steps: to send the query, and to wait for its answer.

=cut

sub begin
{
	my ($self, $sql) = @_;

	utf8::encode($sql) if !utf8::downgrade($sql, 1);
	$self->_send(pack('aNZ*', 'Q', 5 + length $sql, $sql));
	return;
}

sub end
{
	my ($self) = @_;
	return $self->_answer;
}

=item is_over()

Whether the server has ended the session: it says so without being asked.

=item close()

=back

=cut

sub is_over
{
	my ($self) = @_;
	return IO::Select->new($self->{socket})->can_read(0);
}

sub close
{
	my ($self) = @_;
	# a child of the process that has opened it only lets go of it
	$self->_send(pack('aN', 'X', 4)) if $self->{owner} == $$;
	CORE::close $self->{socket};
	return;
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

# What the server says until it is ready for the next query.
sub _answer
{
	my ($self) = @_;
	my %answer = (rows => '', notices => '', tags => [], in_transaction => 0);

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
		elsif ($type eq 'C')
		{
			push @{ $answer{tags} }, unpack 'Z*', $said;
		}
		elsif ($type eq 'N')
		{
			$answer{notices} .= _in_words($said);
		}
		elsif ($type eq 'E')
		{
			$answer{error} //= _in_words($said);
			$answer{sqlstate} //= $said =~ /(?:\A|\0)C(\w{5})\0/ ? $1 : '';
		}
		elsif ($type eq 'R' && unpack('N', $said) != 0)
		{
			$answer{error} = "the server asks for a password\n";
			last;
		}
		elsif ($type eq 'Z')
		{
			$answer{in_transaction} = $said ne 'I';
			return \%answer;
		}
	}
	$answer{error} //= "server closed the connection unexpectedly\n";
	$answer{sqlstate} //= '57P01';
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
