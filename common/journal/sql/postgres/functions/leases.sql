-- What is left of a member's lease, null when there is no such member: common/core/members/member.py, lease_left.
CREATE OR REPLACE FUNCTION member_left(member) RETURNS interval LANGUAGE sql STABLE AS $$
    SELECT CASE WHEN $1.lease_until - clock_timestamp() > 2 * ($1.lease_until - $1.renewed_at) THEN interval '0'
        ELSE greatest($1.lease_until - clock_timestamp(), interval '0') END
$$;

-- What is left of a lease: of its owner's as a member, else of the lease itself; nothing without an owner.
CREATE OR REPLACE FUNCTION lease_left(owner text, until timestamptz) RETURNS interval LANGUAGE sql STABLE AS $$
    SELECT CASE WHEN $1 = '' THEN interval '0' ELSE coalesce(
        (SELECT member_left(member) FROM member WHERE instance = $1),
        greatest(coalesce(nullif($2, '-infinity'), 'epoch') - clock_timestamp(), interval '0')
    ) END
$$;

-- Whether a lease keeps another owner out: a member's while it is one; any other's until it lapses, unless a clock that has
-- stepped back since made it longer than lease_s from now.
CREATE OR REPLACE FUNCTION is_held(owner text, until timestamptz, lease_s double precision) RETURNS boolean
LANGUAGE sql STABLE AS $$
    SELECT $1 <> '' AND coalesce(
        (SELECT member_left(member) > interval '0' FROM member WHERE instance = $1),
        $2 > clock_timestamp() AND $2 <= clock_timestamp() + make_interval(secs => $3)
    )
$$;
