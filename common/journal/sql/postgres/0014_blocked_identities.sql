-- Peers that an operator shut out, whatever their certificates say. Every node looks every few seconds.
CREATE TABLE blocked_identity (
    id         text COLLATE "C" PRIMARY KEY,
    reason     text NOT NULL,
    blocked_us bigint NOT NULL
);
