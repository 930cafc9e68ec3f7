-- How many values come as one argument: what append_batch takes them apart with.

-- Texts as postgres/append.py sends them, each followed by U+001E.
CREATE FUNCTION texts(joined text) RETURNS text[] LANGUAGE sql IMMUTABLE PARALLEL SAFE AS $$
    SELECT CASE WHEN joined = '' THEN '{}' ELSE trim_array(string_to_array(joined, E'\x1e'), 1) END
$$;

-- The i-th (from 1) of many integers packed as 8 bytes each, big endian.
CREATE FUNCTION int8_at(packed bytea, i int) RETURNS bigint LANGUAGE sql IMMUTABLE PARALLEL SAFE AS $$
    SELECT ('x' || encode(substr(packed, 8 * i - 7, 8), 'hex'))::bit(64)::bigint
$$;
