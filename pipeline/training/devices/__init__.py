"""The devices and processes that training runs on."""
