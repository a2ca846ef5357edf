GRANT USAGE ON SCHEMA outbox TO isthmus_orders, isthmus_payments;
GRANT INSERT ON outbox.event TO isthmus_orders, isthmus_payments;
GRANT USAGE ON ALL SEQUENCES IN SCHEMA outbox TO isthmus_orders, isthmus_payments;
