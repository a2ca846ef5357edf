-- Functions of the owner; a dump that is restored has forgotten who may not call them.
REVOKE ALL ON ALL FUNCTIONS IN SCHEMA bridge FROM PUBLIC;
GRANT USAGE ON SCHEMA bridge TO isthmus_bridge_inbound, isthmus_bridge_outbound, isthmus_warehouse;
GRANT SELECT, INSERT, UPDATE ON bridge.checkpoint, bridge.dead_letter, bridge.ledger TO isthmus_bridge_inbound;
GRANT DELETE ON bridge.ledger TO isthmus_bridge_inbound;
GRANT SELECT, UPDATE ON bridge.flow TO isthmus_bridge_inbound;
-- It makes shadows to compare the warehouse with, and removes them.
GRANT CREATE ON SCHEMA bridge TO isthmus_bridge_inbound;
DO $$
DECLARE
    shadow regclass;
BEGIN
    FOR shadow IN
        SELECT oid FROM pg_class
        WHERE relnamespace = 'bridge'::regnamespace AND relkind = 'r' AND starts_with(relname, 'shadow_')
            AND relowner <> 'isthmus_bridge_inbound'::regrole
    LOOP
        EXECUTE 'ALTER TABLE ' || shadow || ' OWNER TO isthmus_bridge_inbound';
    END LOOP;
END $$;
-- What was stopped on its way out is buried, and read by the other direction's operator.
GRANT INSERT ON bridge.dead_letter TO isthmus_bridge_outbound;
GRANT EXECUTE ON FUNCTION bridge.supersede TO isthmus_bridge_outbound;
GRANT EXECUTE ON FUNCTION bridge.send_again TO isthmus_bridge_inbound;
-- The one thing of this schema that another room may read.
GRANT SELECT ON bridge.landing TO isthmus_warehouse;
